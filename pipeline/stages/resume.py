"""`resume`: continue an interrupted run under its run id; the result is that of an uninterrupted run.

    python -m pipeline resume --run_id 0123456789abcdef0123456789abcdef

Parameters, base and number of threads come from the run; docs/reliability.md has the guarantees.
"""  # fmt: skip

from __future__ import annotations

from typing import Any

from pipeline.errors import invalid
from pipeline.execution.attempt import load_stage
from pipeline.params import ENTRY_POINTS, ResumeParams, parse_params
from pipeline.params.family import OWN_PREFIX
from pipeline.tracking.recovery.orphans import mark_as_resuming, without_run_adoption
from pipeline.tracking.recovery.resume import InterruptedRun, find_interrupted
from pipeline.tracking.stage_run import StageResult
from pipeline.tracking.store import open_store


def resume(params: ResumeParams) -> StageResult:
    """Continue an interrupted run from its last checkpoint and return the result of its stage.

    Raises:
        UserInputError: The run cannot be resumed to the same result; the message has the alternative.
    """
    run = find_interrupted(open_store(), params.run_id, force=params.force)
    mark_as_resuming(run.run_id)
    kind = ENTRY_POINTS[run.stage]
    stage_params = parse_params(kind, resumed_parameters(run, params))
    with without_run_adoption():
        return load_stage(kind)(stage_params, resumed_run_id=run.run_id)


def resumed_parameters(run: InterruptedRun, params: ResumeParams) -> dict[str, Any]:
    """Return the run's resolved parameters; an inherited label sample is taken from its base again.

    Raises:
        UserInputError: Its network was built by the user's own code, which is never executed because a run names it.
    """
    parameters: dict[str, Any] = {**run.parameters, "dry_run": params.dry_run}
    if run.parameters.get("model", "").startswith(OWN_PREFIX):
        if not params.model:
            what = "its network was built by your own code, which has to be named again."
            remedy = "Add model=own:PATH.py:FUNCTION as it was given to the run."
            raise invalid("run_id", run.run_id, what, remedy=remedy)
        parameters["model"] = params.model
    if run.inherits_labels:
        parameters |= {"per_class": "auto", "val_per_class": "auto"}
    return parameters
