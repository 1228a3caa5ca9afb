"""The lifecycle of a stage's run: create, adopt or resume it, and end it with the right status.

All calls go through `MlflowClient` with explicit run ids. MLflow's fluent active run is thread-local, its exit handler
marks unfinished runs FINISHED, and the first run that starts takes `MLFLOW_RUN_ID`; here, the first stage of the
process reads and unsets that variable.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from uuid import uuid4

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from pipeline.console import echo
from pipeline.errors import UserInputError
from pipeline.interruption import interruptible, raise_if_interrupted
from pipeline.params import StageParams
from pipeline.redaction import first_line, without_password
from pipeline.runtime import process_identity, process_lives
from pipeline.tracking import names
from pipeline.tracking.cache_key import code_digest
from pipeline.tracking.claims import Claim, ClaimLostError
from pipeline.tracking.outbox.journal import Entry, Journal
from pipeline.tracking.outbox.local_state import has_local_state, lock_run_state, run_folder
from pipeline.tracking.outbox.sender import Sender
from pipeline.tracking.outbox.uploader import Uploader
from pipeline.tracking.plan_context import PlanContext
from pipeline.tracking.recovery.clean import clear_uploaded
from pipeline.tracking.recovery.orphans import close_orphaned_runs
from pipeline.tracking.recovery.restore_killed import restore_killed_status
from pipeline.tracking.recovery.resume import RESUMABLE, claim_interrupted, resume_command, suggest_resume
from pipeline.tracking.stage_run import UPLOAD_LIMIT_SECONDS, StageRun, tag_values
from pipeline.tracking.store import (
    active_experiment_id,
    holds_runs_of_this_process,
    note_run_of_this_process,
    open_store,
    reach_store,
    set_run_tags,
    unusable_store,
)

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
    tags = _initial_tags(params, note, tags, parent_run_id)
    with interruptible():
        if resumed_run_id is not None:
            run, logged_params = _reopen(open_store(), resumed_run_id, tags)
        elif plan_context is not None and plan_context.claim is not None:
            run, logged_params = _begin_claimed(name, tags, plan_context.claim, rerun=plan_context.rerun)
        else:
            run, logged_params = _begin(name, tags)
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
    params: StageParams, note: str, tags: Mapping[str, object], parent_run_id: str | None
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
            **process_identity(),
            **tags,
            **parent,
        }
    )


def _begin_claimed(name: str, tags: dict[str, str], claim: Claim, *, rerun: bool) -> tuple[StageRun, Collection[str]]:
    """Resume the run of a claim's last holder if that is known to be dead; else create a run that supersedes it."""
    client, previous = open_store(), claim.previous_run_id
    if previous and not rerun and _was_interrupted_here(client, previous):
        try:
            run, logged_params = _reopen(client, previous, tags, claim)
            claim.record_run(run.run_id)
            return run, logged_params
        except UserInputError as error:
            logger.info(f"run {previous} cannot be resumed: {first_line(error)}")
    run, logged_params = _begin(name, tags, claim)
    claim.record_run(run.run_id)
    if previous and not rerun:
        _supersede(client, previous, run.run_id)
    return run, logged_params


def _was_interrupted_here(client: MlflowClient, run_id: str) -> bool:
    """Whether a run was interrupted or killed on this host, and can be resumed."""
    with contextlib.suppress(MlflowException):
        run = client.get_run(run_id)
        tags = run.data.tags
        dead = process_lives(tags.get("process", ""), tags.get("host", "")) is False
        interrupted = run.info.status == "KILLED" or (run.info.status == "RUNNING" and dead)
        here = tags.get("host") == process_identity()["host"] and has_local_state(run_folder(run_id))
        return here and interrupted and tags.get(names.STAGE) in RESUMABLE
    return False


def _supersede(client: MlflowClient, run_id: str, successor: str) -> None:
    """Tag a run whose step another run has taken over: its result does not count, even if it ends after all."""
    with contextlib.suppress(MlflowException):
        client.set_tag(run_id, names.SUPERSEDED_BY, successor)
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id, "KILLED")


def _begin(name: str, tags: dict[str, str], claim: Claim | None = None) -> tuple[StageRun, Collection[str]]:
    """Create a run, or adopt the one created by `mlflow run`; also return the names of parameters it already has.

    If the store is unreachable but holds runs of this process, the run is started locally and created there later;
    otherwise, UserInputError is raised.
    """
    nested = names.PARENT_RUN_ID in tags
    may_wait = nested or holds_runs_of_this_process()
    try:
        client = reach_store()
        if not nested:
            close_orphaned_runs(client)
        suggest_resume(client, tags[names.STAGE], tags.get(names.CACHE_KEY, ""))
        return _adopt_or_create(client, name, tags, claim)
    except (MlflowException, UserInputError) as error:
        if not may_wait:
            raise unusable_store(error) from error
        logger.warning(f"tracking store unreachable ({first_line(error)}): storing this run locally until it is back")
        return _create_offline(name, tags, claim), ()


def _adopt_or_create(
    client: MlflowClient, name: str, tags: dict[str, str], claim: Claim | None
) -> tuple[StageRun, Collection[str]]:
    adopted_id = os.environ.get("MLFLOW_RUN_ID") if names.PARENT_RUN_ID not in tags else None
    if adopted_id:
        mlflow_run = client.get_run(adopted_id)
        client.update_run(adopted_id, status="RUNNING", name=name)
        set_run_tags(client, adopted_id, tags)
        del os.environ["MLFLOW_RUN_ID"]
    else:
        # resolve_tags adds MLflow's own: user, source, commit
        mlflow_run = client.create_run(active_experiment_id(), tags=resolve_tags(tags), run_name=name)
    note_run_of_this_process()
    ids = mlflow_run.info.run_id, mlflow_run.info.experiment_id
    run = _open(client, *ids, entries=[_tags_entry(tags)], claim=claim)
    run.adopted = bool(adopted_id)
    return run, mlflow_run.data.params


def _create_offline(name: str, tags: dict[str, str], claim: Claim | None) -> StageRun:
    """Start a run under a local id; the store assigns another one when the run is uploaded."""
    experiment_id = active_experiment_id()
    creation = {
        "kind": "create",
        "experiment_id": experiment_id,
        "name": name,
        "start_time": int(time.time() * 1000),
        "tags": resolve_tags(tags),
    }
    client = MlflowClient(mlflow.get_tracking_uri())
    return _open(client, uuid4().hex, experiment_id, entries=[creation, _tags_entry(tags)], claim=claim)


def _reopen(
    client: MlflowClient, run_id: str, tags: dict[str, str], claim: Claim | None = None
) -> tuple[StageRun, Collection[str]]:
    """Reopen an interrupted run; raise UserInputError if it is in progress, has ended, or its inputs have changed."""
    started = time.perf_counter()
    lock, history, differences = claim_interrupted(client, run_id, tags)
    set_run_tags(client, run_id, process_identity())
    tags = {name: value for name, value in tags.items() if name not in (names.OPENED, names.CODE_DIGEST)}
    if differences:  # neither version alone would reproduce the result, so it must not be cached
        tags |= {names.RESUMED_WITH: json.dumps(differences), names.CACHE_KEY: ""}
    entries = [{"kind": "status", "status": "RUNNING"}, _tags_entry(tags)]
    run = _open(client, run_id, history.experiment_id, entries=entries, lock=lock, claim=claim)
    run.started, run.run_history = started, history
    return run, history.params


def _tags_entry(tags: dict[str, str]) -> Entry:
    return {"kind": "tags", "tags": tags}


def _open(
    client: MlflowClient,
    run_id: str,
    experiment_id: str,
    *,
    entries: Iterable[Entry],
    lock: FileLock | None = None,
    claim: Claim | None = None,
) -> StageRun:
    """Lock the run's local state, write the first journal entries and start the uploader."""
    folder = run_folder(run_id)
    lock = lock or lock_run_state(folder)
    assert lock is not None, "no other process knows of a run that was just created"
    journal = Journal(folder)
    store = without_password(mlflow.get_tracking_uri())
    for entry in ({"kind": "opened", "run_id": run_id, "store": store, **process_identity()}, *entries):
        journal.append(entry)
    sender = Sender(client, run_id, folder, claim)
    uploader = Uploader(journal, sender.send, sender.report_damaged)
    return StageRun(client, run_id, experiment_id, folder, uploader, sender, lock, claim)


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
