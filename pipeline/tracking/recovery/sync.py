"""`python -m pipeline sync`: upload the journals of runs whose process is gone."""

import shutil
import time
from collections import Counter
from pathlib import Path

import mlflow
from mlflow import MlflowClient

from pipeline.console import echo
from pipeline.redaction import first_line, without_password
from pipeline.state_dir import state_folder
from pipeline.tracking.outbox.journal import (
    JOURNAL,
    UPLOADED,
    Entry,
    logged_entries,
    read_part,
    send_pending,
    uploaded_bytes,
)
from pipeline.tracking.outbox.local_state import LOCK, locked_run_state
from pipeline.tracking.outbox.sender import MAX_ATTEMPTS, Sender
from pipeline.tracking.recovery.clean import clear_uploaded
from pipeline.tracking.recovery.orphans import close_orphaned_runs
from pipeline.tracking.store import open_store

PAUSE_SECONDS = 0.5


def sync_runs() -> bool:
    """Upload every journal whose process is gone, print a summary per run, and return whether nothing is pending.

    Raises:
        UserInputError: The store is not usable.
    """
    folders = [path.parent for path in state_folder().glob(f"runs/*/{JOURNAL}")]
    if not folders:
        echo("nothing to upload")
        return True
    client = open_store()
    # the oldest first, so that a base is uploaded before the runs that use it
    pending = sorted(((*_opened(folder), folder) for folder in folders), key=lambda item: (item[0], item[2]))
    uploaded = [_sync_run(client, folder, store) for _, store, folder in pending]
    close_orphaned_runs(client)
    return all(uploaded)


def _opened(folder: Path) -> tuple[int, str]:
    """Return when a run was opened first, in ms, and the tracking URI (without a password) to upload it to."""
    opened = next((entry for entry in logged_entries(folder) if entry["kind"] == "opened"), {})
    return int(opened.get("time", 0)), str(opened.get("store", without_password(mlflow.get_tracking_uri())))


def _sync_run(client: MlflowClient, folder: Path, store: str) -> bool:
    """Upload one run's journal and return whether nothing is pending; a run in progress is skipped."""
    if store != without_password(mlflow.get_tracking_uri()):
        echo(f"run {folder.name}: still pending: it belongs to {store}; set MLFLOW_TRACKING_URI to that store")
        return False
    with locked_run_state(folder) as locked:
        if not locked:
            echo(f"run {folder.name}: in progress, uploaded by its own process")
        elif (folder / JOURNAL).exists():
            return _upload(client, folder)
        elif {path.name for path in folder.iterdir()} <= {LOCK, UPLOADED}:  # just cleared by its process
            shutil.rmtree(folder)
    return True


def _upload(client: MlflowClient, folder: Path) -> bool:
    sender = Sender(client, folder.name, folder)
    pending = read_part(folder / JOURNAL, uploaded_bytes(folder)).entries
    error = _send_with_retries(folder, sender)
    for message in sender.messages:
        echo(message)
    if error is not None:
        echo(f"run {folder.name}: still pending: {first_line(error)}")
        return False
    for message in sender.rejected:
        echo(f"run {folder.name}: rejected by the store: {message} (saved in {folder})")
    model = f", model {sender.model_uri}" if sender.model_uri else ""
    echo(f"run {sender.run_id}: uploaded {_summary(pending)}{model}")
    if not sender.rejected:
        clear_uploaded(folder)
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
    points = sum(len(entry["metrics"]) for entry in entries if entry["kind"] == "metrics")
    counts = {"metric values": points, "files or folders": kinds["file"], "models": kinds["model"]}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "remaining entries"
