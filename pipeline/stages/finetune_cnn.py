"""`finetune_cnn`: three-part fine-tuning of a base CNN: frozen copies, trained copies, fresh layers.

    python -m pipeline finetune_cnn --frozen 1 --intermediate 1

On MNIST, digits 0-6 to 7-9: see the README for the measured means, ranges and intervals.
"""  # fmt: skip

from __future__ import annotations

from pipeline.errors import Fault, UserInputError
from pipeline.networks.reuse import Reuse
from pipeline.params import FinetuneCnnParams
from pipeline.stages.target_training import train_on_target
from pipeline.tracking.result_cache import PlanContext
from pipeline.tracking.stage_run import StageResult


def finetune_cnn(
    params: FinetuneCnnParams, *, plan_context: PlanContext | None = None, resumed_run_id: str | None = None
) -> StageResult:
    """Copy and freeze the first `frozen` blocks, copy and train the next `intermediate`, train the rest afresh.

    Args:
        params: What to reuse of which base, on which labels, how.
        plan_context: Of the plan run that this step belongs to; cached results are reused.
        resumed_run_id: The interrupted run to go on with.

    Returns:
        The run's id, the URI of the logged model, and its final metrics.

    Raises:
        UserInputError: Base, draw or parts are not possible; no run was made.
        NonFiniteLossError: Training diverged; the run is FAILED.
        Interrupted: Ctrl-C or SIGTERM; the run is KILLED and its last checkpoint kept.
    """
    return train_on_target(
        params,
        lambda depth: three_parts(params, depth),
        min_depth=params.frozen + params.intermediate,
        plan_context=plan_context,
        resumed_run_id=resumed_run_id,
    )


def three_parts(params: FinetuneCnnParams, depth: int) -> Reuse:
    """Return what is taken of a base with `depth` blocks; the new network has as many.

    Raises:
        UserInputError: The parts are more than the base has.
    """
    copied = params.frozen + params.intermediate
    if copied > depth:
        raise UserInputError(
            Fault(
                "frozen + intermediate",
                copied,
                f"the base has {depth} blocks (its convolutions and one dense block).",
                f"Choose at most {depth} together.",
            )
        )
    return Reuse(copied, params.frozen, depth)
