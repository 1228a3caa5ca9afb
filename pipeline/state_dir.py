"""Where the project keeps its local state: journals and checkpoints of runs, studies' locks, decoded images."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """Return the folder of all local state: `$PIPELINE_STATE_DIR`, else `.pipeline`."""
    return Path(os.environ.get("PIPELINE_STATE_DIR") or ".pipeline")
