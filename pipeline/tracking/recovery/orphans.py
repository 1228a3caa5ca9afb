"""Runs that are not ours to end, or that nobody has ended: of dead processes, and those that `mlflow run` makes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag

from pipeline.runtime import process_identity, process_lives
from pipeline.tracking import names
from pipeline.tracking.outbox.journal import ended_as, logged_entries
from pipeline.tracking.outbox.local_state import is_abandoned, run_folder
from pipeline.tracking.store import active_experiment_id, open_store
from pipeline.tracking.unstarted import unstarted_runs

logger = logging.getLogger(__name__)


@contextmanager
def without_run_adoption() -> Iterator[None]:
    """Keep the run that `mlflow run` made for the stage that was asked for, while another one runs before it."""
    held = os.environ.pop("MLFLOW_RUN_ID", None)
    try:
        yield
    finally:
        if held is not None:
            os.environ["MLFLOW_RUN_ID"] = held


def mark_as_resuming(run_id: str) -> None:
    """Note on the run that `mlflow run -e resume` made which one it resumes, and whose process it is."""
    if own := os.environ.get("MLFLOW_RUN_ID"):
        tags = {names.RESUMED_RUN_ID: run_id, names.NOTE: f"Resumes run {run_id}.", **process_identity()}
        open_store().log_batch(own, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)


def fail_unclaimed_run(note: str) -> None:
    """End the run that `mlflow run` made, and that no stage has taken over, as FAILED with a note."""
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    if run_id:
        client = open_store()
        client.set_tag(run_id, names.NOTE, note[:8000])
        client.set_terminated(run_id, "FAILED")


def close_orphaned_runs(client: MlflowClient) -> None:
    """End the runs of the active experiment whose process is known to be gone as KILLED."""
    for run in lost_runs(client, active_experiment_id()):
        if ended_as(logged_entries(run_folder(run.info.run_id))):
            logger.info(f"run {run.info.run_id} has ended, and its end is pending: run python -m pipeline sync")
        else:
            _close(client, run, "KILLED", "Its process ended without a word; closed by a later command.")
            logger.info(f"run {run.info.run_id} was left RUNNING by a process that is gone: now KILLED")
    for run in unstarted_runs(client, active_experiment_id()):
        _close(client, run, "KILLED", "The `mlflow run` that made it ended before its command began.")
        logger.info(f"run {run.info.run_id} was left RUNNING by an `mlflow run` that did not begin it: now KILLED")


def lost_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    """Return the RUNNING runs of an experiment whose process is known to be gone.

    Known it is of a process that could be seen from here, and of one whose state lies here and is held by nobody.
    """
    found = []
    for run in _running(client, experiment_id, "tags.process LIKE '% %'"):
        lives = process_lives(run.data.tags["process"], run.data.tags.get("host", ""))
        if is_abandoned(run_folder(run.info.run_id)) if lives is None else not lives:
            found.append(run)
    return found


def close_runs_of_process(host: str, process: str, run_id: str, reason: str) -> None:
    """End the runs of a process that is gone as FAILED, and the run they are nested in as KILLED if its process is too.

    A process that cannot be seen from here was not missed there within seconds: so its parent is gone as well.

    Args:
        host: As `runtime.process_identity` writes it, like `process`.
        process: Likewise.
        run_id: The run of what it was doing, where it had got so far as to say; FAILED even if it has ended.
        reason: Goes into the note of the nested runs.
    """
    client = open_store()
    which = f"tags.host = '{host}' and tags.process = '{process}'"
    lost = {run.info.run_id: run for run in _running(client, active_experiment_id(), which)}
    if run_id:
        lost[run_id] = client.get_run(run_id)
    for run in lost.values():
        _close(client, run, "FAILED", reason)
        if parent_id := run.data.tags.get(names.PARENT_RUN_ID):
            parent = client.get_run(parent_id)
            tags = parent.data.tags
            if parent.info.status == "RUNNING" and not process_lives(tags.get("process", ""), tags.get("host", "")):
                _close(client, parent, "KILLED", "Its process is gone; closed by another machine or command.")


def _running(client: MlflowClient, experiment_id: str, which: str) -> list[Run]:
    found = client.search_runs([experiment_id], f"attributes.status = 'RUNNING' and {which}", max_results=1000)
    return list(found)


def _close(client: MlflowClient, run: Run, status: str, reason: str) -> None:
    client.set_tag(run.info.run_id, names.NOTE, f"{run.data.tags.get(names.NOTE, '')}\n\n{reason}".strip()[:8000])
    client.set_terminated(run.info.run_id, status)
