"""`resume`: go on with a run that was interrupted, under its own id, to the result it would have had.

    python -m pipeline resume --run_id 0123456789abcdef0123456789abcdef

Its parameters, its base and its number of threads come from the run. docs/reliability.md says what is promised.
"""  # fmt: skip

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from pipeline.params import ENTRY_POINTS, ResumeParams, parse_params
from pipeline.stages.finetune_cnn import finetune_cnn
from pipeline.stages.scratch_cnn import scratch_cnn
from pipeline.stages.train_base import train_base
from pipeline.stages.transfer import transfer
from pipeline.tracking.recovery.orphans import mark_as_resuming, without_run_adoption
from pipeline.tracking.recovery.resume import InterruptedRun, find_interrupted
from pipeline.tracking.stage_run import StageResult
from pipeline.tracking.store import open_store

logger = logging.getLogger(__name__)

STAGES: dict[str, Callable[..., StageResult]] = {
    "train_base": train_base,
    "transfer": transfer,
    "finetune_cnn": finetune_cnn,
    "scratch_cnn": scratch_cnn,
}


def resume(params: ResumeParams) -> StageResult:
    """Go on with an interrupted run from its last checkpoint.

    Args:
        params: Which run.

    Returns:
        What its stage would have returned.

    Raises:
        UserInputError: The run cannot be resumed, or not to the same result; says what to do instead.
    """
    found = find_interrupted(open_store(), params.run_id, force=params.force)
    mark_as_resuming(found.run_id)
    logger.info(f"run {found.run_id} of {found.stage} goes on")
    stage_params = parse_params(ENTRY_POINTS[found.stage], given(found, dry_run=params.dry_run))
    with without_run_adoption():
        return STAGES[found.stage](stage_params, resumed_run_id=found.run_id)


def given(found: InterruptedRun, *, dry_run: bool) -> dict[str, Any]:
    """Return the parameters that lead to what a run's own led to, from those that it has recorded as resolved."""
    parameters: dict[str, Any] = {**found.parameters, "dry_run": dry_run}
    if found.inherits_labels:
        parameters |= {"per_class": "auto", "val_per_class": "auto"}
    return parameters
