"""Puts an existing base in place of the base that a plan trains (`main -P base=URI`), and fits the plan's cuts to it.

Read `use_base`. Cuts of a built-in plan are scaled from the blocks of its own base to those of the existing one; a
cut of another plan is rejected if the base has fewer blocks.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.data.normalization import with_preprocessing
from pipeline.errors import Fault, UserInputError
from pipeline.networks.from_params import with_convolutions
from pipeline.params import FinetuneCnnParams, TargetParams, TrainBaseParams, TransferParams
from pipeline.params.data import NO_DATASET
from pipeline.params.target_stages import AnyTargetParams, CacheFeaturesParams, CutParams
from pipeline.plan.arms import EXISTING_BASE
from pipeline.plan.records import Plan, PlannedArm, Question, Setting
from pipeline.stages.base_selection import check_base
from pipeline.stages.cut_pass import requested_cuts
from pipeline.stages.finetune_cnn import three_parts
from pipeline.stages.plan_arms import Arms, arm_params, given, rename_arms, root_of, with_values
from pipeline.stages.target_setup import check_depth
from pipeline.stages.transfer import layers_to_reuse
from pipeline.tracking.base_model import Base

GEOMETRY_FIELDS = ("image_size", "channels", "resize")
CUTS = ("reuse_layers", "unfreeze", "frozen", "intermediate", "depth")  # parameters that count blocks
BOUNDARIES = (("reuse_layers",), ("frozen", "intermediate"), ("depth",))  # their sums are cuts


def require_base(plan: Plan) -> None:
    """Raise UserInputError if a plan is about an existing base, and none was given."""
    if any(arm.kind.entry_point == EXISTING_BASE for arm in plan.arms.values()):
        what = f"the plan {plan.name} is about an existing base."
        remedy = "Give its URI: base=models:/m-ID, as import_base and train_base print it."
        raise UserInputError(Fault("base", "auto", what, remedy))


def use_base(plan: Plan, base: Base, *, model: str, built_in: bool) -> Plan:
    """Return a plan whose targets build on an existing base, instead of one that it trains.

    Args:
        plan: The plan.
        base: The existing base.
        model: The user's own code that built the base, as named in the command; empty for other bases.
        built_in: Whether the plan is built in: then its cuts are scaled to the blocks of the base.

    Raises:
        UserInputError: The plan trains several bases or none, or its arms cannot use this one.
    """
    own = own_base(plan)
    targets = {name: arm for name, arm in plan.arms.items() if issubclass(arm.kind, TargetParams)}
    check_targets(targets, base, model)
    depth = base.network.architecture.depth
    shape = base.network.architecture.image_shape
    scaling = (planned_depth(own, targets, shape), depth) if built_in else (depth, depth)
    arms = {name: on_base(arm, base, model, own=own.name) for name, arm in plan.arms.items() if arm is not own}
    fitted = {name: with_values(arm, scaled_cuts(arm, *scaling)) for name, arm in arms.items()}
    plan = replace(plan, arms=arms, questions=without_arm(plan.questions, own.name))
    return rename_arms(plan, fitted, action=f"Fitted to the {depth} blocks of the base", parameters=CUTS)


def own_base(plan: Plan) -> PlannedArm:
    """Return the arm of the base that a plan's targets build on.

    Raises:
        UserInputError: There are several, or none.
    """
    roots = {arm.name: root_of(arm, plan.arms) for arm in plan.arms.values() if arm.base}
    bases = {root.name: root for root in roots.values() if root is not None}
    if len(bases) != 1:
        listed = f"builds on {len(bases)} bases ({', '.join(bases)})" if bases else "has no arm that builds on a base"
        remedy = "An existing base replaces exactly one: choose another plan, such as surface, or leave base out."
        raise UserInputError(Fault("base", None, f"the plan {plan.name} {listed}.", remedy))
    return next(iter(bases.values()))


def check_targets(targets: Arms, base: Base, model: str) -> None:
    """Raise UserInputError if a target cannot use the base, each fault once."""
    faults: dict[str, Fault] = {}
    for arm in targets.values():
        params = arm_params(replace(arm, setting={**arm.setting, "model": model}))
        assert isinstance(params, AnyTargetParams), "a target has a base"
        try:
            check_base(params, base)
        except UserInputError as error:
            faults |= {str(fault): fault for fault in error.faults}
    if faults:
        raise UserInputError(*faults.values())


def on_base(arm: PlannedArm, base: Base, model: str, *, own: str) -> PlannedArm:
    """Return a target that builds on the existing base, directly or through another arm; others are unchanged."""
    params = arm_params(arm)
    if not isinstance(params, AnyTargetParams):
        return arm
    preprocessing = with_preprocessing(params, base.network.architecture.preprocessing)
    setting: Setting = {**arm.setting, **{name: getattr(preprocessing, name) for name in GEOMETRY_FIELDS}}
    setting |= {"model": model} if model else {}
    if base.dataset != NO_DATASET:
        setting.setdefault("dataset", base.dataset)
    if arm.base not in ("", own):
        return replace(arm, setting=setting)
    return replace(arm, base="", setting={**setting, "base": base.model_uri})


def planned_depth(own: PlannedArm, targets: Arms, image_shape: tuple[int, int, int]) -> int:
    """Return the number of blocks of the base that a plan trains; of one that was not built here, the highest cut."""
    params = None if own.kind.entry_point == EXISTING_BASE else arm_params(own)
    if isinstance(params, TrainBaseParams) and params.hidden_layers is not None:
        return params.hidden_layers
    if isinstance(params, TrainBaseParams) and params.model == "cnn":
        return str(with_convolutions(params, image_shape).conv_channels).count(",") + 2  # and the dense block
    return max((sum(given(arm, name) for name in names) for arm in targets.values() for names in BOUNDARIES), default=1)


def scaled_cuts(arm: PlannedArm, planned: int, depth: int) -> dict[str, int]:
    """Return the cuts of an arm, scaled from a base with `planned` blocks to one with `depth`; all stay at least 1."""

    def scaled(cut: int) -> int:
        return min(depth, max(1, (2 * cut * depth + planned) // (2 * planned))) if cut else 0

    if planned == depth or not issubclass(arm.kind, TargetParams):
        return {}
    params = arm_params(arm)
    if isinstance(params, FinetuneCnnParams):
        copied = params.frozen + params.intermediate
        trained = max(min(params.intermediate, 1), scaled(copied) - scaled(params.frozen))
        return {"frozen": scaled(copied) - trained, "intermediate": trained}
    if isinstance(params, TransferParams) and isinstance(params.unfreeze, int):
        copied = params.reuse_layers if isinstance(params.reuse_layers, int) else planned
        trained = max(min(params.unfreeze, 1), scaled(copied) - scaled(copied - params.unfreeze))
        cuts = {"reuse_layers": scaled(copied), "unfreeze": trained}
        return {name: cut for name, cut in cuts.items() if name in arm.setting and arm.setting[name] != "all"}
    return {"depth": scaled(params.depth)} if isinstance(params, CacheFeaturesParams) and params.depth != "all" else {}


def without_arm(questions: tuple[Question, ...], name: str) -> tuple[Question, ...]:
    """Return the questions that can be answered without an arm; it is left out of those with other arms."""
    remaining = []
    for question in questions:
        arms = tuple(arm for arm in question.arms if arm != name)
        if question.reference != name and (arms or question.labelled):
            remaining.append(replace(question, arms=arms))
    return tuple(remaining)


def check_cuts(plan: Plan, base: Base) -> None:
    """Raise UserInputError if an arm copies or names blocks that the base does not have, each fault once."""
    faults: dict[str, Fault] = {}
    blocks = base.network.architecture.block_names
    for arm in plan.arms.values():
        try:
            params = arm_params(arm)
            if isinstance(params, TransferParams):
                check_depth(layers_to_reuse(params, blocks), base.network.architecture)
            elif isinstance(params, FinetuneCnnParams):
                three_parts(params, len(blocks))
            elif isinstance(params, CutParams) and params.cuts:
                requested_cuts(params.cuts, blocks)
        except UserInputError as error:
            faults |= {str(fault): fault for fault in error.faults}
    if faults:
        raise UserInputError(*faults.values())
