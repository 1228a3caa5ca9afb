"""`transfer`: reuse the blocks of a base for new classes with few labels.

    python -m pipeline transfer --reuse_layers 4

Expected on MNIST, digits 0-4 to 5-9 with 100 labels per class: see docs/results.md.
"""  # fmt: skip

from __future__ import annotations

from pipeline.errors import Fault, UserInputError
from pipeline.networks.graph.naming import resolve_blocks
from pipeline.networks.reuse import Reuse
from pipeline.params import TransferParams
from pipeline.stages.target_setup import ReuseRule
from pipeline.stages.target_training import train_on_target
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.stage_run import StageResult


def transfer(
    params: TransferParams, *, plan_context: PlanContext | None = None, resumed_run_id: str | None = None
) -> StageResult:
    """Copy `reuse_layers` blocks, and train the top `unfreeze` of them and the blocks above on new classes."""
    at_least = [params.unfreeze if params.reuse_layers == "all" else params.reuse_layers, params.reuse_layers != 0]
    min_depth = max(int(number) for number in at_least if not isinstance(number, str))
    rule = ReuseRule(min_depth, lambda blocks: layers_to_reuse(params, blocks))
    return train_on_target(params, rule, plan_context=plan_context, resumed_run_id=resumed_run_id)


def layers_to_reuse(params: TransferParams, blocks: tuple[str, ...]) -> Reuse:
    """Return which layers of a base with these blocks are copied and frozen.

    Raises:
        UserInputError: The base has fewer layers, more layers are to be fine-tuned than copied, or `train_blocks` names
            a block that is not there, or leaves out a randomly initialized one.
    """
    depth = len(blocks)
    copied = depth if params.reuse_layers == "all" else numbered("reuse_layers", params.reuse_layers, blocks)[-1]
    unfrozen = params.unfreeze
    if isinstance(unfrozen, str):
        unfrozen = max(0, copied - numbered("unfreeze", unfrozen, blocks)[0] + 1)
    faults = []
    if copied > depth:
        allowed = f"must be between 0 and {depth} (the base has {depth} blocks)."
        faults.append(Fault("reuse_layers", copied, allowed, "Reuse fewer layers, or choose a deeper base."))
    if unfrozen > copied:
        allowed = f"must be between 0 and {copied} (only {copied} layers are reused)."
        faults.append(Fault("unfreeze", unfrozen, allowed, "Unfreeze fewer layers, or reuse more."))
    if unfrozen == 0 and params.unfreeze != 0:
        allowed = f"is above the {copied} blocks that are reused."
        faults.append(Fault("unfreeze", params.unfreeze, allowed, "Name one of them, or reuse more."))
    if faults:
        raise UserInputError(*faults)
    upper = params.upper if params.upper != "auto" else "drop" if copied else "fresh"
    new_depth = copied if upper == "drop" else depth
    if params.train_blocks == "auto":
        return Reuse(copied, copied - unfrozen, new_depth)
    chosen = chosen_blocks(params.train_blocks, blocks, range(copied + 1, new_depth + 1), depth=new_depth)
    return Reuse(copied, chosen[0] - 1, new_depth, train_blocks=chosen)


def numbered(parameter: str, value: int | str, blocks: tuple[str, ...]) -> tuple[int, ...]:
    """Return the numbers of the blocks that a value names: an integer is itself, a module is all blocks inside it.

    Raises:
        UserInputError: No block has this name.
    """
    if isinstance(value, int):
        return (value,)
    try:
        return resolve_blocks(value, blocks)
    except ValueError as error:
        text = str(error)
        problem = text if text.endswith(("?", ".")) else f"{text}."
        raise UserInputError(Fault(parameter, value, problem, "List them with python -m pipeline blocks.")) from None


def chosen_blocks(text: str, blocks: tuple[str, ...], fresh: range, *, depth: int) -> tuple[int, ...]:
    """Return the numbers of the blocks in `train_blocks`, ascending.

    Args:
        text: Numbers or names.
        blocks: Names of all blocks of the base.
        fresh: Numbers of the randomly initialized blocks.
        depth: Number of blocks of the new network.

    Raises:
        UserInputError: No such block, or a randomly initialized block is left out.
    """
    chosen = numbered("train_blocks", text, blocks)
    if chosen[-1] > depth:
        allowed = f"block {chosen[-1]} is above the {depth} that are used."
        raise UserInputError(Fault("train_blocks", text, allowed, "Reuse more layers."))
    if left_out := set(fresh) - set(chosen):
        allowed = f"block {min(left_out)} is randomly initialized and would not be trained."
        raise UserInputError(Fault("train_blocks", text, allowed, "Add it, or use upper=drop."))
    return chosen
