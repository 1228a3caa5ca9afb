"""Runs left open by processes that are gone, and the run that `mlflow run` creates for a command."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag

from pipeline.runtime import process_identity, process_lives
from pipeline.tracking import names
from pipeline.tracking.outbox.journal import final_status, logged_entries
from pipeline.tracking.outbox.local_state import is_abandoned, run_folder
from pipeline.tracking.recovery.unstarted_runs import unstarted_runs
from pipeline.tracking.store import active_experiment_id, open_store, search_running

logger = logging.getLogger(__name__)


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
        open_store().log_batch(adopted, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)


def fail_unclaimed_run(note: str) -> None:
    """End the run created by `mlflow run` as FAILED with a note, unless a stage has adopted it."""
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    if run_id:
        client = open_store()
        client.set_tag(run_id, names.NOTE, note[:8000])
        client.set_terminated(run_id, "FAILED")


def close_orphaned_runs(client: MlflowClient) -> None:
    """End all runs of the active experiment whose process is known to be gone as KILLED."""
    for run in orphaned_runs(client, active_experiment_id()):
        if final_status(logged_entries(run_folder(run.info.run_id))):
            logger.info(f"run {run.info.run_id} has ended but is not uploaded: run python -m pipeline sync")
        else:
            _close(
                client, run, status="KILLED", reason="Its process exited without closing it; closed by a later command."
            )
            logger.info(f"run {run.info.run_id} was RUNNING without a process: marked KILLED")
    for run in unstarted_runs(client, active_experiment_id()):
        _close(client, run, status="KILLED", reason="Its `mlflow run` exited before the command started.")
        logger.info(f"run {run.info.run_id} was RUNNING, but its command never started: marked KILLED")


def orphaned_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    """Return the RUNNING runs of an experiment whose process is known to be gone.

    If the process is not visible from here (another host), its run counts only if its unlocked local state is here.
    """
    orphans = []
    for run in search_running(client, experiment_id, "tags.process LIKE '% %'"):
        alive = process_lives(run.data.tags["process"], run.data.tags.get("host", ""))
        if is_abandoned(run_folder(run.info.run_id)) if alive is None else not alive:
            orphans.append(run)
    return orphans


def close_runs_of_process(host: str, process: str, *, run_id: str, reason: str) -> None:
    """End the runs of a dead process as FAILED, and their parent run as KILLED if its process is dead too.

    A parent on a host that is not visible from here would have closed them within seconds, so it counts as dead. `host`
    and `process` are as written by `runtime.process_identity`. `run_id` is the run that the process was working on, or
    empty if unknown; it becomes FAILED even if it has ended.
    """
    client = open_store()
    condition = f"tags.host = '{host}' and tags.process = '{process}'"
    runs = {run.info.run_id: run for run in search_running(client, active_experiment_id(), condition)}
    if run_id:
        runs[run_id] = client.get_run(run_id)
    for run in runs.values():
        _close(client, run, status="FAILED", reason=reason)
        if parent_id := run.data.tags.get(names.PARENT_RUN_ID):
            parent = client.get_run(parent_id)
            tags = parent.data.tags
            if parent.info.status == "RUNNING" and not process_lives(tags.get("process", ""), tags.get("host", "")):
                _close(client, parent, status="KILLED", reason="Its process is gone; closed by another process.")


def _close(client: MlflowClient, run: Run, *, status: str, reason: str) -> None:
    client.set_tag(run.info.run_id, names.NOTE, f"{run.data.tags.get(names.NOTE, '')}\n\n{reason}".strip()[:8000])
    client.set_terminated(run.info.run_id, status)
