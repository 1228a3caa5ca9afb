"""What commands leave on disk: its path, size and age, and whether it is still needed."""

from __future__ import annotations

import contextlib
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Leftover:
    """A folder or file that a command has left on disk."""

    kind: str  # such as `run state`
    path: Path
    removable: bool  # whether nothing needs it any more
    why: str  # why it is or is not needed
    remove: Callable[[], bool]  # removes it unless it is needed by now; returns whether it has been removed

    def measure(self) -> tuple[int, float]:
        """Return the bytes of all its files, and the seconds since the last of them was written to."""
        size, newest = 0, 0.0
        for path in (self.path, *self.path.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # its process may just have removed it
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_size:  # looking at a run touches its folder and lock
                    size, newest = size + status.st_size, max(newest, status.st_mtime)
        return size, max(0.0, time.time() - newest) if newest else 0.0
