"""A stage's run: opened, and given its status at the end, whatever the end is.

`MlflowClient` is used with explicit run ids throughout. The fluent active run is thread-local, its exit handler
marks a run FINISHED that was not, and `MLFLOW_RUN_ID` goes to whoever starts a run first: here it is read and
unset once, by the first stage of the process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from uuid import uuid4

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from pipeline.console import echo
from pipeline.errors import UserInputError
from pipeline.interruption import interruptible, raise_if_interrupted
from pipeline.params import StageParams
from pipeline.redaction import without_password
from pipeline.runtime import process_identity
from pipeline.tracking import names
from pipeline.tracking.cache_key import code_digest
from pipeline.tracking.outbox.journal import Entry, Journal
from pipeline.tracking.outbox.local_state import lock_run_state, run_folder
from pipeline.tracking.outbox.sender import Sender
from pipeline.tracking.outbox.uploader import Uploader
from pipeline.tracking.recovery.orphans import (
    close_orphaned_runs,
)
from pipeline.tracking.recovery.restore_killed import restore_killed_status
from pipeline.tracking.recovery.resume import check_same_result, claim_interrupted, resume_command, suggest_resume
from pipeline.tracking.run_state import clear_arrived
from pipeline.tracking.stage_run import ARRIVAL_LIMIT_SECONDS, StageRun
from pipeline.tracking.store import (
    active_experiment_id,
    first_line,
    holds_runs_of_this_process,
    note_run_of_this_process,
    open_store,
    reach_store,
    unusable_store,
)

logger = logging.getLogger(__name__)

LATE_LIMIT_SECONDS = 2  # once the store has been waited for in vain
KILLED_LIMIT_SECONDS = 1.2  # an interrupted stage must not keep its user waiting


@contextmanager
def stage_run(
    params: StageParams,
    *,
    name: str,
    note: str,
    tags: Mapping[str, object],
    parent_run_id: str | None = None,
    resumed_run_id: str | None = None,
) -> Iterator[StageRun]:
    """Open a stage's run, and end it FINISHED, FAILED (an exception) or KILLED (Ctrl-C, SIGTERM).

    The run that `mlflow run` made is adopted by the first stage of the process; any other is created.

    Args:
        params: Logged, each once, those that the run lacks.
        name: The run's name in the UI.
        note: What the run is, in words.
        tags: Further tags that are known at the start.
        parent_run_id: Makes the run a nested one.
        resumed_run_id: The interrupted run to go on with, instead of a new one.

    Raises:
        UserInputError: The store cannot be used; or the run cannot be resumed, or not to the same result.
    """
    whole = _all_tags(params, note, tags)
    with interruptible():
        if resumed_run_id is not None:
            run, given = _reopen(open_store(), resumed_run_id, whole)
        else:
            run, given = _begin(name, parent_run_id, whole)
        run.nested = parent_run_id is not None
        try:
            raise_if_interrupted()
            run.uploader.put({"kind": "params", "params": {k: v for k, v in params.logged().items() if k not in given}})
            yield run
            _end(run, RunStatus.FINISHED, "", LATE_LIMIT_SECONDS if run.late else ARRIVAL_LIMIT_SECONDS)
        except KeyboardInterrupt:
            _end(run, RunStatus.KILLED, f"{note}\n\nInterrupted; its last checkpoint is kept.", KILLED_LIMIT_SECONDS)
            if run.ended == RunStatus.KILLED:
                echo(f"to go on: {resume_command(params.entry_point, run.run_id)}")
            if run.adopted and run.ended == RunStatus.KILLED:
                restore_killed_status(run.run_id, mlflow.get_tracking_uri())
            raise
        except BaseException as error:
            reason = f"{note}\n\nFailed with {type(error).__name__}: {error}"
            _end(run, RunStatus.FAILED, reason, LATE_LIMIT_SECONDS if run.late else ARRIVAL_LIMIT_SECONDS)
            raise


def _all_tags(params: StageParams, note: str, tags: Mapping[str, object]) -> dict[str, str]:
    """Return what a run carries from its first moment; a process killed then would leave it RUNNING without it."""
    found = {
        names.STAGE: params.entry_point,
        names.NOTE: note,
        names.CODE_DIGEST: code_digest(params.entry_point),
        names.PARAMETERS: json.dumps(params.logged()),
        names.OPENED: int(time.time() * 1000),
        **process_identity(),
        **tags,
    }
    return {name: str(value)[:8000] for name, value in found.items()}


def _begin(name: str, parent_run_id: str | None, tags: dict[str, str]) -> tuple[StageRun, Collection[str]]:
    """Make a run, or adopt the one that `mlflow run` made; also return the parameters that it has already.

    A store that has held a run of this study, and does not answer now, does not stop the study: the run is begun
    here, and made there once the store is back.

    Raises:
        UserInputError: The store does not answer, and no run of this study is in it yet.
    """
    may_wait = parent_run_id is not None or holds_runs_of_this_process()
    try:
        client = reach_store()
        if parent_run_id is None:
            close_orphaned_runs(client)
        suggest_resume(client, tags[names.STAGE], tags.get(names.CACHE_KEY, ""))
        return _adopt_or_create(client, name, parent_run_id, tags)
    except (MlflowException, UserInputError) as error:
        if not may_wait:
            raise unusable_store(error) from error
        logger.warning(f"the tracking store does not answer ({first_line(error)}): this run is kept here until it does")
        return _create_here(name, parent_run_id, tags), ()


def _adopt_or_create(
    client: MlflowClient, name: str, parent_run_id: str | None, tags: dict[str, str]
) -> tuple[StageRun, Collection[str]]:
    began = time.perf_counter()
    adopted = os.environ.get("MLFLOW_RUN_ID") if parent_run_id is None else None
    if adopted:
        made = client.get_run(adopted)
        client.update_run(adopted, status="RUNNING", name=name)
        client.log_batch(adopted, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)
        del os.environ["MLFLOW_RUN_ID"]
    else:
        made = client.create_run(active_experiment_id(), tags=_created_tags(parent_run_id, tags), run_name=name)
    note_run_of_this_process()
    run = _open(client, made.info.run_id, made.info.experiment_id, began)
    run.adopted = bool(adopted)
    run.uploader.put({"kind": "tags", "tags": tags})
    return run, made.data.params


def _create_here(name: str, parent_run_id: str | None, tags: dict[str, str]) -> StageRun:
    """Begin a run under an id of our own; the store gives it another one when it is made there."""
    began = time.perf_counter()
    experiment_id = active_experiment_id()
    creation = {"kind": "create", "experiment_id": experiment_id, "name": name, "start_time": int(time.time() * 1000)}
    client, run_id = MlflowClient(mlflow.get_tracking_uri()), uuid4().hex
    run = _open(client, run_id, experiment_id, began, {**creation, "tags": _created_tags(parent_run_id, tags)})
    run.uploader.put({"kind": "tags", "tags": tags})
    return run


def _created_tags(parent_run_id: str | None, tags: dict[str, str]) -> dict[str, str]:
    """Return a new run's tags: its own, its parent, and MLflow's about user, source and commit."""
    found: dict[str, str] = resolve_tags({**tags, names.PARENT_RUN_ID: parent_run_id} if parent_run_id else tags)
    return found


def _reopen(client: MlflowClient, run_id: str, tags: dict[str, str]) -> tuple[StageRun, Collection[str]]:
    """Take an interrupted run up again, once it is certain that its result will be what it would have been.

    Raises:
        UserInputError: Another process works on it, it has ended, or what it reads is no longer the same.
    """
    began = time.perf_counter()
    experiment_id, lock, run_history = claim_interrupted(client, run_id)
    try:
        differing = check_same_result(run_id, run_history.tags, tags)
    except BaseException:
        lock.release()
        raise
    own = process_identity()
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in own.items()], synchronous=True)
    run = _open(client, run_id, experiment_id, began, lock=lock)
    run.run_history = run_history
    kept = {name: value for name, value in tags.items() if name not in (names.OPENED, names.CODE_DIGEST)}
    if differing:  # not to be taken for what either version alone would make
        kept |= {names.RESUMED_WITH: json.dumps(differing), names.CACHE_KEY: ""}
    run.uploader.put({"kind": "status", "status": "RUNNING"})
    run.uploader.put({"kind": "tags", "tags": kept})
    return run, run_history.params


def _open(
    client: MlflowClient,
    run_id: str,
    experiment_id: str,
    began: float,
    *first: Entry,
    lock: FileLock | None = None,
) -> StageRun:
    folder = run_folder(run_id)
    lock = lock or lock_run_state(folder)
    assert lock is not None, "nobody else can know of a run that has just been made"
    journal = Journal(folder)
    store = without_password(mlflow.get_tracking_uri())
    for entry in ({"kind": "opened", "run_id": run_id, "store": store, **process_identity()}, *first):
        journal.append(entry)
    sender = Sender(client, run_id, folder)
    uploader = Uploader(journal, sender, sender.note_damaged)
    return StageRun(client, run_id, experiment_id, folder, uploader, sender, lock, began, adopted=False)


def _end(run: StageRun, status: int, note: str, limit_seconds: float) -> None:
    """Give the run its status; once all of it has arrived, remove its local state but what `resume` needs."""
    if run.ended is None:  # else interrupted while its end was being delivered: that end stands
        if note:
            run.set_tags({names.NOTE: note})
        ended = int(time.time() * 1000)
        run.uploader.put({"kind": "status", "status": RunStatus.to_string(status), "end_time": ended})
        run.ended = status
        if status != RunStatus.FINISHED and (run.folder / names.CHECKPOINTS).is_dir():
            run.log_file(run.folder / names.CHECKPOINTS, names.CHECKPOINTS)  # after the status, which is short
    arrived = run.uploader.end(limit_seconds, lambda: _leave(run))
    for refusal in run.sender.refused:
        logger.warning(f"the tracking store did not get {refusal}; it is kept in {run.folder}")
    if not arrived:
        why = f" ({first_line(run.uploader.last_error)})" if run.uploader.last_error else ""
        logger.warning(f"not everything has reached the tracking store{why}; it is kept in {run.folder}")
        logger.info("what is pending is delivered by: python -m pipeline sync")
    elif run.ended == RunStatus.FINISHED and not run.sender.refused and not run.nested:
        logger.info("everything has arrived at the tracking store")


def _leave(run: StageRun) -> None:
    """Clear up after a run whose journal has arrived; called in the delivering thread."""
    if not run.sender.refused:
        with contextlib.suppress(OSError):  # whatever stays is listed by `clean`
            clear_arrived(run.folder)
    run.lock.release()
