"""The local state of runs: a folder each, with journal, checkpoints and figures, until all of it has arrived."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = "lock"


def state_folder() -> Path:
    """Return where stages keep their state until it has arrived: `$PIPELINE_STATE_DIR`, else `.pipeline`."""
    return Path(os.environ.get("PIPELINE_STATE_DIR") or ".pipeline")


def run_folder(run_id: str) -> Path:
    """Return where the state of one run lies."""
    return state_folder() / "runs" / run_id


def hold(folder: Path) -> FileLock | None:
    """Take hold of a run's state, until released or until this process is gone; None while another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, thread_local=False)  # the delivering thread releases it
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock
