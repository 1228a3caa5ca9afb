"""The local state of runs: a folder each, with journal, checkpoints and figures, until all of it has arrived."""

from __future__ import annotations

import os
import re
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.tracking import names
from pipeline.tracking.outbox.journal import JOURNAL

LOCK = "lock"
ALIASES = "aliases"


def state_folder() -> Path:
    """Return where stages keep their state until it has arrived: `$PIPELINE_STATE_DIR`, else `.pipeline`."""
    return Path(os.environ.get("PIPELINE_STATE_DIR") or ".pipeline")


def run_folder(run_id: str) -> Path:
    """Return where the state of one run lies."""
    return state_folder() / "runs" / run_id


def resolve_run_id(run_id: str) -> str:
    """Return the id that the store has given to a run which was begun while the store did not answer."""
    try:
        return (state_folder() / ALIASES / run_id).read_text(encoding="ascii")
    except OSError:
        return run_id


def record_alias(run_id: str, real: str) -> None:
    """Keep the id that the store has given to a run."""
    path = state_folder() / ALIASES / run_id
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(real, encoding="ascii")


def resolve_run_ids(text: str) -> str:
    """Return a text in which the store's ids stand for those that runs had before it knew of them."""
    if not (state_folder() / ALIASES).is_dir():
        return text
    return re.sub(r"\b[0-9a-f]{32}\b", lambda found: resolve_run_id(found[0]), text)


def lock_run_state(folder: Path) -> FileLock | None:
    """Take hold of a run's state, until released or until this process is gone; None while another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, thread_local=False)  # the delivering thread releases it
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def has_local_state(folder: Path) -> bool:
    """Whether a run has left something in its local folder."""
    return (folder / JOURNAL).exists() or (folder / names.CHECKPOINTS).is_dir()


def is_abandoned(folder: Path) -> bool:
    """Whether a run has left state here that no process holds; false where there is none to hold."""
    lock = lock_run_state(folder) if has_local_state(folder) else None
    if lock is not None:
        lock.release()
    return lock is not None
