"""A disk that is full: recognised however it shows, and said with the folder and what to do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import DiskFullError

_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WORDS = ("no space left on device", "disk quota exceeded", "database or disk is full", "file too large")
REMEDY = "Free some, or have PIPELINE_STATE_DIR and the tracking store name folders on another disk."


@contextmanager
def disk_full_errors(folder: Path) -> Iterator[None]:
    """Let a full disk name the folder.

    Raises:
        DiskFullError: In place of the system's own error, whose number it keeps.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise DiskFullError(error.errno, f"{error.strerror}: {folder.resolve()} {_free(folder)}. {REMEDY}") from error


def is_full(error: OSError) -> bool:
    """Whether an error of the system says that a disk, or a share of it, is full."""
    return error.errno in _NUMBERS


def disk_full_message(error: BaseException) -> str:
    """Return what to say where an exception, or one that led to it, comes from a full disk; else nothing."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, DiskFullError):
            return str(found.strerror)
        if (isinstance(found, OSError) and is_full(found)) or any(w in str(found).lower() for w in _WORDS):
            where = getattr(found, "filename", None) or "."
            folder = Path(where) if Path(where).is_dir() else Path(where).parent
            return f"{str(found).splitlines()[0]}: {folder.resolve()} {_free(folder)}. {REMEDY}"
        found = found.__cause__ or found.__context__
    return ""


def _free(folder: Path) -> str:
    try:
        return f"has {shutil.disk_usage(folder).free / 2**20:.1f} MiB free"
    except OSError:
        return "cannot be looked at"
