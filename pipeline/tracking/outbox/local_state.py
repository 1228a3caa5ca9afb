"""The local state of runs: one folder per run with journal, checkpoints and figures, until they are uploaded."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.state_dir import state_folder
from pipeline.tracking import names
from pipeline.tracking.outbox.journal import JOURNAL

LOCK = "lock"
ALIASES = "aliases"


def run_folder(run_id: str) -> Path:
    """Return the folder of one run's local state."""
    return state_folder() / "runs" / run_id


def run_id_of(reference: str) -> str:
    """Return the run id of `runs:/ID/...` or of a bare id."""
    return reference.removeprefix("runs:/").split("/")[0]


def resolve_run_id(run_id: str) -> str:
    """Return the store's id of a run; it differs from `run_id` if the run started while the store was unreachable."""
    try:
        return (state_folder() / ALIASES / run_id).read_text(encoding="ascii")
    except OSError:
        return run_id


def record_alias(local_run_id: str, run_id: str) -> None:
    """Store the id that the store has assigned to a run started while the store was unreachable."""
    path = state_folder() / ALIASES / local_run_id
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(run_id, encoding="ascii")


def resolve_run_ids(text: str) -> str:
    """Return `text` with every local run id replaced by the store's id."""
    if not (state_folder() / ALIASES).is_dir():
        return text
    return re.sub(r"\b[0-9a-f]{32}\b", lambda match: resolve_run_id(match[0]), text)


def lock_run_state(folder: Path) -> FileLock | None:
    """Lock a run's state until released or until this process exits; None if another process holds the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, thread_local=False)  # released by the upload thread
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


@contextmanager
def locked_run_state(folder: Path) -> Iterator[bool]:
    """Lock a run's state during the block; yields False if another process holds the lock."""
    lock = lock_run_state(folder)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


def has_local_state(folder: Path) -> bool:
    """Return whether a run has a journal or checkpoints in its local folder."""
    return (folder / JOURNAL).exists() or (folder / names.CHECKPOINTS).is_dir()


def is_abandoned(folder: Path) -> bool:
    """Return whether a run has local state that no process has locked."""
    if not has_local_state(folder):
        return False
    with locked_run_state(folder) as locked:
        return locked
