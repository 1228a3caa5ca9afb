"""Delivering what runs whose process is gone have left behind: `python -m pipeline sync`."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient

from pipeline.console import say
from pipeline.redaction import without_password
from pipeline.tracking.deliver import ATTEMPTS, Sender
from pipeline.tracking.journal import ARRIVED, JOURNAL, Entry, arrived_bytes, drain, logged_entries, read_part
from pipeline.tracking.run import close_lost_runs
from pipeline.tracking.run_state import clear_arrived
from pipeline.tracking.state import LOCK, hold, state_folder
from pipeline.tracking.store import first_line, open_store

PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Left:
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
    found = left_behind()
    if not found:
        say("nothing is pending")
        return True
    client = open_store()
    arrived = [_sync(client, left) for left in found]
    close_lost_runs(client)
    return all(arrived)


def left_behind() -> list[Left]:
    """Return what all runs have left behind, the oldest first: a base then arrives before what builds on it."""
    found = []
    for path in state_folder().glob(f"runs/*/{JOURNAL}"):
        entries = logged_entries(path.parent)
        opened = next((entry for entry in entries if entry["kind"] == "opened"), {})
        found.append(
            Left(
                path.parent,
                path.parent.name,
                str(opened.get("store", without_password(mlflow.get_tracking_uri()))),
                int(opened.get("time", 0)),
            )
        )
    return sorted(found, key=lambda left: (left.opened, left.run_id))


def _sync(client: MlflowClient, left: Left) -> bool:
    """Deliver one run's journal, and say whether nothing of it is pending; a run that is under way is left alone."""
    if left.store != without_password(mlflow.get_tracking_uri()):
        say(f"run {left.run_id}: still pending: it is for the store {left.store}; name that in MLFLOW_TRACKING_URI")
        return False
    lock = hold(left.folder)
    if lock is None:
        say(f"run {left.run_id}: under way, its own process delivers it")
        return True
    try:
        if (left.folder / JOURNAL).exists():
            return _deliver(client, left)
        if {path.name for path in left.folder.iterdir()} <= {LOCK, ARRIVED}:  # its process has just removed it
            shutil.rmtree(left.folder)
        return True
    finally:
        lock.release()


def _deliver(client: MlflowClient, left: Left) -> bool:
    sender = Sender(client, left.run_id, left.folder)
    waiting = read_part(left.folder / JOURNAL, arrived_bytes(left.folder)).entries
    error = _drain_patiently(left.folder, sender)
    for line in sender.news:
        say(line)
    if error is not None:
        say(f"run {left.run_id}: still pending: {first_line(error)}")
        return False
    for refusal in sender.refused:
        say(f"run {left.run_id}: the store did not get {refusal}; it is kept in {left.folder}")
    say(
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
            drain(folder, sender, sender.note_damaged)
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
