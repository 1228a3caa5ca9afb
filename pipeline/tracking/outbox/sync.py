"""Delivering what runs whose process is gone have left behind: `python -m pipeline sync`."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient

from pipeline.console import echo
from pipeline.redaction import without_password
from pipeline.tracking.outbox.journal import (
    JOURNAL,
    UPLOADED,
    Entry,
    logged_entries,
    read_part,
    send_pending,
    uploaded_bytes,
)
from pipeline.tracking.outbox.local_state import LOCK, lock_run_state, state_folder
from pipeline.tracking.outbox.sender import ATTEMPTS, Sender
from pipeline.tracking.recovery.orphans import close_orphaned_runs
from pipeline.tracking.run_state import clear_arrived
from pipeline.tracking.store import first_line, open_store

PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class PendingRun:
    """What a run has left behind.

    Attributes:
        folder: Its local state.
        run_id: Its id, as its process knew it.
        store: The tracking URI that it is for, without a password.
        opened: When its first process opened it, in ms.
    """

    folder: Path
    run_id: str
    store: str
    opened: int


def sync_runs() -> bool:
    """Deliver every journal under the state folder whose process is gone; say what arrived of each.

    Returns:
        Whether nothing is pending any more.

    Raises:
        UserInputError: The store cannot be used.
    """
    found = pending_runs()
    if not found:
        echo("nothing is pending")
        return True
    client = open_store()
    arrived = [_sync(client, left) for left in found]
    close_orphaned_runs(client)
    return all(arrived)


def pending_runs() -> list[PendingRun]:
    """Return what all runs have left behind, the oldest first: a base then arrives before what builds on it."""
    found = []
    for path in state_folder().glob(f"runs/*/{JOURNAL}"):
        entries = logged_entries(path.parent)
        opened = next((entry for entry in entries if entry["kind"] == "opened"), {})
        found.append(
            PendingRun(
                path.parent,
                path.parent.name,
                str(opened.get("store", without_password(mlflow.get_tracking_uri()))),
                int(opened.get("time", 0)),
            )
        )
    return sorted(found, key=lambda left: (left.opened, left.run_id))


def _sync(client: MlflowClient, left: PendingRun) -> bool:
    """Deliver one run's journal, and say whether nothing of it is pending; a run that is under way is left alone."""
    if left.store != without_password(mlflow.get_tracking_uri()):
        echo(f"run {left.run_id}: still pending: it is for the store {left.store}; name that in MLFLOW_TRACKING_URI")
        return False
    lock = lock_run_state(left.folder)
    if lock is None:
        echo(f"run {left.run_id}: under way, its own process delivers it")
        return True
    try:
        if (left.folder / JOURNAL).exists():
            return _deliver(client, left)
        if {path.name for path in left.folder.iterdir()} <= {LOCK, UPLOADED}:  # its process has just removed it
            shutil.rmtree(left.folder)
        return True
    finally:
        lock.release()


def _deliver(client: MlflowClient, left: PendingRun) -> bool:
    sender = Sender(client, left.run_id, left.folder)
    waiting = read_part(left.folder / JOURNAL, uploaded_bytes(left.folder)).entries
    error = _drain_patiently(left.folder, sender)
    for line in sender.messages:
        echo(line)
    if error is not None:
        echo(f"run {left.run_id}: still pending: {first_line(error)}")
        return False
    for refusal in sender.refused:
        echo(f"run {left.run_id}: the store did not get {refusal}; it is kept in {left.folder}")
    echo(
        f"run {sender.run_id}: {_counted(waiting)} arrived"
        + (f", model {sender.model_uri}" if sender.model_uri else "")
    )
    if not sender.refused:
        clear_arrived(left.folder)
    return True


def _drain_patiently(folder: Path, sender: Sender) -> Exception | None:
    """Drain, several times where the store fails, and return the last error where it went on failing."""
    error: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            send_pending(folder, sender, sender.note_damaged)
            return None
        except Exception as caught:  # whatever it is, the journal stays
            error = caught
            time.sleep(PAUSE_SECONDS)
    return error


def _counted(entries: list[Entry]) -> str:
    points = sum(len(entry.get("metrics", [])) for entry in entries if entry["kind"] == "metrics")
    kinds = Counter(str(entry["kind"]) for entry in entries)
    told = {"metric points": points, "files or folders": kinds["file"], "models": kinds["model"]}
    parts = [f"{count} {what}" for what, count in told.items() if count]
    return ", ".join(parts) if parts else "what was left"
