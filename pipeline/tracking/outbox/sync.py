"""`python -m pipeline sync`: upload the journals of runs whose process is gone."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient

from pipeline.console import echo
from pipeline.redaction import first_line, without_password
from pipeline.state_dir import state_folder
from pipeline.tracking.outbox.clean import clear_uploaded
from pipeline.tracking.outbox.journal import (
    JOURNAL,
    UPLOADED,
    Entry,
    logged_entries,
    read_part,
    send_pending,
    uploaded_bytes,
)
from pipeline.tracking.outbox.local_state import LOCK, lock_run_state
from pipeline.tracking.outbox.sender import MAX_ATTEMPTS, Sender
from pipeline.tracking.recovery.orphans import close_orphaned_runs
from pipeline.tracking.store import open_store

PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class PendingRun:
    """A run with a journal in the state folder.

    Attributes:
        store: The tracking URI to upload to, without a password.
        opened: When its first process opened it, in ms.
    """

    folder: Path
    store: str
    opened: int

    @property
    def run_id(self) -> str:
        """The id that its process used."""
        return self.folder.name


def sync_runs() -> bool:
    """Upload every journal whose process is gone, print a summary per run, and return whether nothing is pending.

    Raises:
        UserInputError: The store is not usable.
    """
    runs = pending_runs()
    if not runs:
        echo("nothing to upload")
        return True
    client = open_store()
    uploaded = [_sync_run(client, run) for run in runs]
    close_orphaned_runs(client)
    return all(uploaded)


def pending_runs() -> list[PendingRun]:
    """Return all runs with a journal, the oldest first, so that a base is uploaded before the runs that use it."""
    runs = []
    for path in state_folder().glob(f"runs/*/{JOURNAL}"):
        opened = next((entry for entry in logged_entries(path.parent) if entry["kind"] == "opened"), {})
        store = str(opened.get("store", without_password(mlflow.get_tracking_uri())))
        runs.append(PendingRun(path.parent, store, int(opened.get("time", 0))))
    return sorted(runs, key=lambda run: (run.opened, run.run_id))


def _sync_run(client: MlflowClient, run: PendingRun) -> bool:
    """Upload one run's journal and return whether nothing is pending; a run in progress is skipped."""
    if run.store != without_password(mlflow.get_tracking_uri()):
        echo(f"run {run.run_id}: still pending: it belongs to {run.store}; set MLFLOW_TRACKING_URI to that store")
        return False
    lock = lock_run_state(run.folder)
    if lock is None:
        echo(f"run {run.run_id}: in progress, uploaded by its own process")
        return True
    try:
        if (run.folder / JOURNAL).exists():
            return _upload(client, run)
        if {path.name for path in run.folder.iterdir()} <= {LOCK, UPLOADED}:  # just cleared by its process
            shutil.rmtree(run.folder)
        return True
    finally:
        lock.release()


def _upload(client: MlflowClient, run: PendingRun) -> bool:
    sender = Sender(client, run.run_id, run.folder)
    pending = read_part(run.folder / JOURNAL, uploaded_bytes(run.folder)).entries
    error = _send_with_retries(run.folder, sender)
    for message in sender.messages:
        echo(message)
    if error is not None:
        echo(f"run {run.run_id}: still pending: {first_line(error)}")
        return False
    for message in sender.rejected:
        echo(f"run {run.run_id}: rejected by the store: {message} (saved in {run.folder})")
    model = f", model {sender.model_uri}" if sender.model_uri else ""
    echo(f"run {sender.run_id}: uploaded {_summary(pending)}{model}")
    if not sender.rejected:
        clear_uploaded(run.folder)
    return True


def _send_with_retries(folder: Path, sender: Sender) -> Exception | None:
    """Send all pending entries, with retries, and return the last error if none of the attempts succeeded."""
    last_error: Exception | None = None
    for _ in range(MAX_ATTEMPTS):
        try:
            send_pending(folder, sender.send, sender.report_damaged)
            return None
        except Exception as error:  # any error leaves the journal in place
            last_error = error
            time.sleep(PAUSE_SECONDS)
    return last_error


def _summary(entries: list[Entry]) -> str:
    kinds = Counter(str(entry["kind"]) for entry in entries)
    points = sum(len(entry.get("metrics", [])) for entry in entries if entry["kind"] == "metrics")
    counts = {"metric values": points, "files or folders": kinds["file"], "models": kinds["model"]}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "remaining entries"
