"""Where the project keeps its local state: journals and checkpoints of runs, studies' locks, decoded images.

A module of its own, since every package stores something there and it imports none of them.
"""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """Return the folder of all local state: `$PIPELINE_STATE_DIR`, else `.pipeline`."""
    return Path(os.environ.get("PIPELINE_STATE_DIR") or ".pipeline")
