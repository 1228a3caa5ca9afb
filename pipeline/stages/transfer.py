"""`transfer`: reuse the hidden layers of a base MLP for new classes with few labels.

    python -m pipeline transfer --reuse_layers 4

Expected on MNIST, digits 0-4 to 5-9 with 100 labels per class: see docs/results.md.
"""  # fmt: skip

from __future__ import annotations

from pipeline.errors import Fault, UserInputError
from pipeline.networks.reuse import Reuse
from pipeline.params import TransferParams
from pipeline.stages.base_selection import ReuseRule
from pipeline.stages.target_training import train_on_target
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.stage_run import StageResult


def transfer(
    params: TransferParams, *, plan_context: PlanContext | None = None, resumed_run_id: str | None = None
) -> StageResult:
    """Copy `reuse_layers` hidden layers, and train the top `unfreeze` of them and the layers above on new classes."""
    min_depth = max(1, params.unfreeze) if params.reuse_layers == "all" else params.reuse_layers
    rule = ReuseRule(min_depth, lambda depth: layers_to_reuse(params, depth))
    return train_on_target(params, rule, plan_context=plan_context, resumed_run_id=resumed_run_id)


def layers_to_reuse(params: TransferParams, depth: int) -> Reuse:
    """Return which layers of a base with `depth` hidden layers are copied and frozen.

    Raises:
        UserInputError: The base has fewer layers, or more layers are to be fine-tuned than copied.
    """
    copied = depth if params.reuse_layers == "all" else params.reuse_layers
    faults = []
    if copied > depth:
        allowed = f"must be between 0 and {depth} (the base has {depth} hidden layers)."
        faults.append(Fault("reuse_layers", copied, allowed, "Reuse fewer layers, or choose a deeper base."))
    if params.unfreeze > copied:
        allowed = f"must be between 0 and {copied} (only {copied} layers are reused)."
        faults.append(Fault("unfreeze", params.unfreeze, allowed, "Unfreeze fewer layers, or reuse more."))
    if faults:
        raise UserInputError(*faults)
    upper = params.upper if params.upper != "auto" else "drop" if copied else "fresh"
    return Reuse(copied, copied - params.unfreeze, copied if upper == "drop" else depth)
