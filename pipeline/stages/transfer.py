"""`transfer`: reuse the hidden layers of a base MLP for new classes with few labels.

    python -m pipeline transfer --reuse_layers 4

On MNIST, digits 0-4 to 5-9 with 100 labels a digit: see the README for the measured means, ranges and intervals.
"""  # fmt: skip

from __future__ import annotations

from pipeline.errors import Fault, UserInputError
from pipeline.networks.reuse import Reuse
from pipeline.params import TransferParams
from pipeline.stages.target_training import train_on_target
from pipeline.tracking.result_cache import PlanContext
from pipeline.tracking.stage_run import StageResult


def transfer(
    params: TransferParams, *, plan_context: PlanContext | None = None, resumed_run_id: str | None = None
) -> StageResult:
    """Copy `reuse_layers` hidden layers, train the top `unfreeze` of them and what is above, on new classes.

    Args:
        params: What to reuse of which base, on which labels, how.
        plan_context: Of the plan run that this step belongs to; cached results are reused.
        resumed_run_id: The interrupted run to go on with.

    Returns:
        The run's id, the URI of the logged model, and its final metrics.

    Raises:
        UserInputError: Base, draw or reuse are not possible; no run was made.
        NonFiniteLossError: Training diverged; the run is FAILED.
        Interrupted: Ctrl-C or SIGTERM; the run is KILLED and its last checkpoint kept.
    """
    least = max(1, params.unfreeze) if params.reuse_layers == "all" else params.reuse_layers
    return train_on_target(
        params,
        lambda depth: layers_to_reuse(params, depth),
        min_depth=least,
        plan_context=plan_context,
        resumed_run_id=resumed_run_id,
    )


def layers_to_reuse(params: TransferParams, depth: int) -> Reuse:
    """Return what is taken of a base with `depth` hidden layers.

    Raises:
        UserInputError: More is asked for than the base has.
    """
    copied = depth if params.reuse_layers == "all" else params.reuse_layers
    faults = []
    if copied > depth:
        faults.append(
            Fault("reuse_layers", copied, f"the base has {depth} hidden layers.", f"Choose from 0 to {depth}.")
        )
    if params.unfreeze > copied:
        faults.append(
            Fault("unfreeze", params.unfreeze, f"only {copied} layers are reused.", f"Choose from 0 to {copied}.")
        )
    if faults:
        raise UserInputError(*faults)
    upper = params.upper if params.upper != "auto" else "drop" if copied else "fresh"
    return Reuse(copied, copied - params.unfreeze, copied if upper == "drop" else depth)
