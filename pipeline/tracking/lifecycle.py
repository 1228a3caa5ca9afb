"""The lifecycle of a stage's run: `run_creation` creates, adopts or resumes it; here it ends with the right status.

All calls go through `MlflowClient` with explicit run ids. MLflow's fluent active run is thread-local, its exit handler
marks unfinished runs FINISHED, and the first run that starts takes `MLFLOW_RUN_ID`; here, the first stage of the
process reads and unsets that variable.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlflow
from mlflow.entities import RunStatus

from pipeline.console import echo
from pipeline.interruption import interruptible, raise_if_interrupted
from pipeline.params import StageParams
from pipeline.redaction import first_line
from pipeline.runtime import hardware, process_identity
from pipeline.tracking import names
from pipeline.tracking.cache_key import code_digest
from pipeline.tracking.claims import ClaimLostError
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.recovery.clean import clear_uploaded
from pipeline.tracking.recovery.restore_killed import restore_killed_status
from pipeline.tracking.recovery.resume import resume_command
from pipeline.tracking.run_creation import create_claimed_run, create_run, resume_run
from pipeline.tracking.stage_run import UPLOAD_LIMIT_SECONDS, StageRun, tag_values
from pipeline.tracking.store import open_store

logger = logging.getLogger(__name__)

LATE_LIMIT_SECONDS = 2.0  # if the store has exceeded the upload limit before
KILLED_LIMIT_SECONDS = 1.2  # Ctrl-C should return quickly


@contextmanager
def stage_run(
    params: StageParams,
    *,
    name: str,
    note: str,
    tags: Mapping[str, object],
    parent_run_id: str | None = None,
    plan_context: PlanContext | None = None,
    resumed_run_id: str | None = None,
) -> Iterator[StageRun]:
    """Open a stage's run and end it as FINISHED, FAILED (an exception) or KILLED (Ctrl-C, SIGTERM).

    The first stage of the process adopts the run created by `mlflow run`; otherwise a run is created, nested if it has
    a `parent_run_id` or is a step of a plan run, or the interrupted run `resumed_run_id` is resumed. `note` is its
    description in the UI. `params` are resolved.

    Raises:
        UserInputError: The store is not usable, the run cannot be resumed, or its result would differ.
    """
    if plan_context is not None:
        parent_run_id, tags = plan_context.parent_run_id, {**tags, **plan_context.tags}
        plan_context.reserve(params)
    tags = _initial_tags(params, note, tags, parent_run_id=parent_run_id)
    with interruptible():
        if resumed_run_id is not None:
            run, logged_params = resume_run(open_store(), resumed_run_id, tags)
        elif plan_context is not None and plan_context.claim is not None:
            run, logged_params = create_claimed_run(name, tags, plan_context.claim, rerun=plan_context.rerun)
        else:
            run, logged_params = create_run(name, tags)
        run.nested = parent_run_id is not None
        export = getattr(params, "export", "auto")
        run.exports_graph = not run.nested if export == "auto" else bool(export)
        run.save_log = plan_context.save_log if plan_context is not None else None
        try:
            raise_if_interrupted()
            new_params = {name: value for name, value in params.logged().items() if name not in logged_params}
            run.uploader.put({"kind": "params", "params": new_params})
            yield run
            _end(run, RunStatus.FINISHED)
            if run.claim is not None and run.claim.lost:
                raise ClaimLostError(run.claim.key)
        except KeyboardInterrupt:
            _end(run, RunStatus.KILLED, f"{note}\n\nInterrupted; its last checkpoint is saved.")
            if run.final_status == RunStatus.KILLED:
                echo(f"to resume: {resume_command(params.entry_point, run.run_id, getattr(params, 'model', ''))}")
                if run.adopted:
                    restore_killed_status(run.run_id, mlflow.get_tracking_uri())
            raise
        except BaseException as error:
            _end(run, RunStatus.FAILED, f"{note}\n\nFailed with {type(error).__name__}: {error}")
            raise


def _initial_tags(
    params: StageParams, note: str, tags: Mapping[str, object], *, parent_run_id: str | None
) -> dict[str, str]:
    """Return the tags set at creation, so that they exist even if the process is killed right after."""
    parent = {names.PARENT_RUN_ID: parent_run_id} if parent_run_id is not None else {}
    return tag_values(
        {
            names.STAGE: params.entry_point,
            names.NOTE: note,
            names.FORMAT: names.FORMAT_VERSION,
            names.CODE_DIGEST: code_digest(params.entry_point),
            names.PARAMETERS: json.dumps(params.logged()),
            names.OPENED: int(time.time() * 1000),
            names.HARDWARE: hardware(str(getattr(params, "device", "cpu"))),
            **process_identity(),
            **tags,
            **parent,
        }
    )


def _end(run: StageRun, status: int, note: str = "") -> None:
    """Set the run's final status and wait for pending uploads, after which its local state is cleared."""
    if run.final_status is None:  # if set, the upload of a final status was interrupted, and that status stands
        if note:
            run.set_tags({names.NOTE: note})
        if run.save_log is not None:
            run.save_log(run.folder / names.WORKER_LOG)
            run.log_file(run.folder / names.WORKER_LOG)
        end_time = int(time.time() * 1000)
        run.uploader.put({"kind": "status", "status": RunStatus.to_string(status), "end_time": end_time})
        run.final_status = status
        if status != RunStatus.FINISHED and (run.folder / names.CHECKPOINTS).is_dir():
            run.log_file(run.folder / names.CHECKPOINTS, names.CHECKPOINTS)  # uploaded after the status, which is small
    limit_seconds = LATE_LIMIT_SECONDS if run.late else UPLOAD_LIMIT_SECONDS
    if status == RunStatus.KILLED:
        limit_seconds = KILLED_LIMIT_SECONDS
    uploaded = run.uploader.close(limit_seconds, lambda: _clear(run))
    for message in run.sender.rejected:
        logger.warning(f"rejected by the tracking store: {message} (saved in {run.folder})")
    if not uploaded:
        reason = f" ({first_line(run.uploader.last_error)})" if run.uploader.last_error else ""
        logger.warning(f"some data is not uploaded yet{reason}; it is saved in {run.folder}")
        logger.info("upload it with: python -m pipeline sync")
    elif run.final_status == RunStatus.FINISHED and not run.sender.rejected and not run.nested:
        logger.info("all data uploaded")


def _clear(run: StageRun) -> None:
    """Clear the local state of an uploaded run, unlock it and release its claim; called by the upload thread."""
    if not run.sender.rejected:
        with contextlib.suppress(OSError):  # `clean` lists whatever remains
            clear_uploaded(run.folder)
    run.lock.release()
    if run.claim is not None:
        run.claim.release()
