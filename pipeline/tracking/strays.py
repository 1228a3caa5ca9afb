"""Runs that are not ours to end, or that nobody has ended: of dead processes, and those that `mlflow run` makes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities import RunTag

from pipeline.console import say
from pipeline.runtime import process_identity, process_lives
from pipeline.tracking import names
from pipeline.tracking.journal import ended_as, logged_entries
from pipeline.tracking.state import run_folder
from pipeline.tracking.store import active_experiment_id, open_store


@contextmanager
def adoption_held_back() -> Iterator[None]:
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


def fail_untouched_run(note: str) -> None:
    """End the run that `mlflow run` made, and that no stage has taken over, as FAILED with a note."""
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    if run_id:
        client = open_store()
        client.set_tag(run_id, names.NOTE, note[:8000])
        client.set_terminated(run_id, "FAILED")


def close_lost_runs(client: MlflowClient) -> None:
    """End the runs of the active experiment whose process on this machine is gone as KILLED."""
    host = process_identity()["host"]
    running = client.search_runs(
        [active_experiment_id()], f"attributes.status = 'RUNNING' and tags.host = '{host}'", max_results=1000
    )
    for run in running:
        if process_lives(run.data.tags.get("process", "")):
            continue
        if ended_as(logged_entries(run_folder(run.info.run_id))):
            say(f"run {run.info.run_id} has ended, and its end is pending: run python -m pipeline sync")
        else:
            note = (
                f"{run.data.tags.get(names.NOTE, '')}\n\nIts process ended without a word; closed by a later command."
            )
            client.set_tag(run.info.run_id, names.NOTE, note[:8000])
            client.set_terminated(run.info.run_id, "KILLED")
            say(f"run {run.info.run_id} was left RUNNING by a process that is gone: now KILLED")


def close_lost_run(run_id: str, reason: str) -> None:
    """End a run whose process is gone as FAILED, with the reason; one that has ended by now stays as it is."""
    client = open_store()
    run = client.get_run(run_id)
    if run.info.status == "RUNNING":
        client.set_tag(run_id, names.NOTE, f"{run.data.tags.get(names.NOTE, '')}\n\n{reason}"[:8000])
        client.set_terminated(run_id, "FAILED")
