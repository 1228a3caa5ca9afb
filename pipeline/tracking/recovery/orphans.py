"""Runs left open by processes that are gone, and the run that `mlflow run` creates for a command.

If `mlflow run` exits before its command starts (conda or uv is missing), its run has no process tag. Then the processes
of this machine are searched for one that was started for the run, and for an `mlflow run` that may still be preparing
its environment. Closing a run that a script's `mlflow.projects.run` is still preparing is harmless: the stage
that adopts it sets it to RUNNING again.
"""

import contextlib
import getpass
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_ENTRY_POINT, MLFLOW_SOURCE_NAME, MLFLOW_USER

from pipeline.params import ENTRY_POINTS
from pipeline.runtime import process_identity, process_lives
from pipeline.tracking import names
from pipeline.tracking.database import sqlite_path
from pipeline.tracking.outbox.journal import final_status, logged_entries
from pipeline.tracking.outbox.local_state import is_abandoned, run_folder
from pipeline.tracking.store import active_experiment_id, open_store, search_running, set_run_tags

logger = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parents[3]
MIN_AGE_MS = 86_400_000  # on a server, a younger run may be in preparation on another machine


@contextmanager
def without_run_adoption() -> Iterator[None]:
    """Reserve the run created by `mlflow run` for the requested stage while another stage runs before it."""
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    try:
        yield
    finally:
        if run_id is not None:
            os.environ["MLFLOW_RUN_ID"] = run_id


def mark_as_resuming(run_id: str) -> None:
    """Tag the run created by `mlflow run -e resume` with the run that it resumes and with this process."""
    if adopted := os.environ.get("MLFLOW_RUN_ID"):
        tags = {names.RESUMED_RUN_ID: run_id, names.NOTE: f"Resumes run {run_id}.", **process_identity()}
        set_run_tags(open_store(), adopted, tags)


def fail_unclaimed_run(note: str) -> None:
    """Mark the run created by `mlflow run` as FAILED, with a note, unless a stage has adopted it."""
    if run_id := os.environ.pop("MLFLOW_RUN_ID", None):
        client = open_store()
        client.set_tag(run_id, names.NOTE, note[:8000])
        client.set_terminated(run_id, "FAILED")


def close_orphaned_runs(client: MlflowClient) -> None:
    """Mark all runs of the active experiment whose process is known to be gone as KILLED."""
    for run in orphaned_runs(client, active_experiment_id()):
        if final_status(logged_entries(run_folder(run.info.run_id))):
            logger.info(f"run {run.info.run_id} has ended but is not uploaded: run python -m pipeline sync")
            continue
        if "process" in run.data.tags:
            reason, state = "Its process exited without closing it; closed by a later command.", "without a process"
        else:
            reason, state = "Its `mlflow run` exited before the command started.", "but its command never started"
        _close(client, run, status="KILLED", reason=reason)
        logger.info(f"run {run.info.run_id} was RUNNING {state}: marked KILLED")


def try_to_close_orphaned_runs() -> None:
    """Close orphaned runs if the store is reachable; otherwise, a later command does."""
    with contextlib.suppress(MlflowException):
        close_orphaned_runs(open_store())


def orphaned_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    """Return the RUNNING runs of an experiment whose process is known to be gone, or whose command never started.

    If the process is on another host, its run counts as orphaned only if its unlocked local state is on this machine.
    """
    orphans = []
    for run in search_running(client, experiment_id, "tags.process LIKE '% %'"):
        alive = process_lives(run.data.tags["process"], run.data.tags.get("host", ""))
        if is_abandoned(run_folder(run.info.run_id)) if alive is None else not alive:
            orphans.append(run)
    return orphans + _unstarted_runs(client, experiment_id)


def _unstarted_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    """Return the runs created by an `mlflow run` on this machine that exited before its command started."""
    runs = search_running(client, experiment_id, "tags.`mlflow.source.type` = 'PROJECT'")
    candidates = [run for run in runs if _may_be_unstarted(run)]
    if not candidates:
        return []
    started, preparing = _live_processes()
    return [
        run
        for run in candidates
        if run.info.run_id not in started and not any(began * 1000 <= run.info.start_time for began in preparing)
    ]


def _may_be_unstarted(run: Run) -> bool:
    tags = run.data.tags
    if "process" in tags or names.STAGE in tags or tags.get(MLFLOW_USER) != getpass.getuser():
        return False
    if tags.get(MLFLOW_PROJECT_ENTRY_POINT) not in ENTRY_POINTS:
        return False
    if sqlite_path(mlflow.get_tracking_uri()) is not None:
        return True
    # the source is a path, or a repository with a subdirectory after #
    repository, _, subdirectory = tags.get(MLFLOW_SOURCE_NAME, "").removeprefix("file://").partition("#")
    old = run.info.start_time < time.time() * 1000 - MIN_AGE_MS
    return old and Path(repository) / subdirectory == PROJECT


def _live_processes() -> tuple[set[str], list[float]]:
    """Return the ids of runs with a live process, and the start time of each `mlflow run` that is still preparing."""
    started: dict[int, str] = {}  # parent process -> run id
    launchers: dict[int, float] = {}
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if any(Path(word).name == "mlflow" and "run" in words[index:] for index, word in enumerate(words)):
                launchers[process.pid] = process.create_time()
            if run_id := process.environ().get("MLFLOW_RUN_ID"):
                started[process.ppid()] = run_id
        except psutil.Error:  # it has exited, or belongs to another user
            continue
    return set(started.values()), [start for pid, start in launchers.items() if pid not in started]


def has_ended(run_id: str) -> bool:
    """Return whether a run is FINISHED or FAILED, uploaded or not."""
    status = final_status(logged_entries(run_folder(run_id))) or open_store().get_run(run_id).info.status
    return status in ("FINISHED", "FAILED")


def close_run_of_dead_process(run_id: str, reason: str) -> None:
    """Mark a RUNNING run as KILLED, unless its process is known to be alive or the store is unreachable.

    For runs whose process has lost its claim: on a host that is not visible from here, it counts as dead.
    """
    with contextlib.suppress(MlflowException):
        client = open_store()
        run = client.get_run(run_id)
        tags = run.data.tags
        if run.info.status == "RUNNING" and not process_lives(tags.get("process", ""), tags.get("host", "")):
            _close(client, run, status="KILLED", reason=reason)


def _close(client: MlflowClient, run: Run, *, status: str, reason: str) -> None:
    client.set_tag(run.info.run_id, names.NOTE, f"{run.data.tags.get(names.NOTE, '')}\n\n{reason}".strip()[:8000])
    client.set_terminated(run.info.run_id, status)
