"""`scratch_cnn`: a fresh CNN of the base's architecture on the target classes, to compare `finetune_cnn` with.

python -m pipeline scratch_cnn --classes 7-9
"""  # fmt: skip

from __future__ import annotations

from pipeline.networks.reuse import Reuse
from pipeline.params import ScratchCnnParams
from pipeline.stages.target_training import train_on_target
from pipeline.tracking.result_cache import PlanContext
from pipeline.tracking.stage_run import StageResult


def scratch_cnn(
    params: ScratchCnnParams, *, plan_context: PlanContext | None = None, resumed_run_id: str | None = None
) -> StageResult:
    """Train a CNN from fresh weights, with the same split, budget and stopping rule as `finetune_cnn`.

    Args:
        params: Which architecture, on which labels, how.
        plan_context: Of the plan run that this step belongs to; cached results are reused.
        resumed_run_id: The interrupted run to go on with.

    Returns:
        The run's id, the URI of the logged model, and its final metrics.

    Raises:
        UserInputError: Base or draw are not possible; no run was made.
        NonFiniteLossError: Training diverged; the run is FAILED.
        Interrupted: Ctrl-C or SIGTERM; the run is KILLED and its last checkpoint kept.
    """
    return train_on_target(
        params, lambda depth: Reuse(0, 0, depth), min_depth=0, plan_context=plan_context, resumed_run_id=resumed_run_id
    )
