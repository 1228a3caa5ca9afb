"""`transfer`: reuse the hidden layers of a base MLP for new classes with few labels.

    python -m pipeline transfer --reuse_layers 4

Expected on MNIST, digits 0-4 to 5-9 with 100 labels per class: see docs/results.md.
"""  # fmt: skip

from __future__ import annotations

from pipeline.errors import Fault, UserInputError
from pipeline.networks.graph.naming import resolve_blocks
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
    rule = ReuseRule(min_depth, lambda blocks: layers_to_reuse(params, blocks))
    return train_on_target(params, rule, plan_context=plan_context, resumed_run_id=resumed_run_id)


def layers_to_reuse(params: TransferParams, blocks: tuple[str, ...]) -> Reuse:
    """Return which layers of a base with these blocks are copied and frozen.

    Raises:
        UserInputError: The base has fewer layers, more layers are to be fine-tuned than copied, or `train_blocks` names
            a block that is not there, or leaves out a randomly initialized one.
    """
    depth = len(blocks)
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
    new_depth = copied if upper == "drop" else depth
    if params.train_blocks == "auto":
        return Reuse(copied, copied - params.unfreeze, new_depth)
    chosen = chosen_blocks(params.train_blocks, blocks, range(copied + 1, new_depth + 1), depth=new_depth)
    return Reuse(copied, chosen[0] - 1, new_depth, train_blocks=chosen)


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
    try:
        chosen = resolve_blocks(text, blocks)
    except ValueError as error:
        raise UserInputError(Fault("train_blocks", text, f"{error}.", "blocks lists the blocks.")) from None
    if chosen[-1] > depth:
        allowed = f"block {chosen[-1]} is above the {depth} that are used."
        raise UserInputError(Fault("train_blocks", text, allowed, "Reuse more layers."))
    if left_out := set(fresh) - set(chosen):
        allowed = f"block {min(left_out)} is randomly initialized, and would stay so."
        raise UserInputError(Fault("train_blocks", text, allowed, "Add it, or use upper=drop."))
    return chosen
