"""Detect a full disk, however the error shows it, and report the folder and what to do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import DiskFullError

REMEDY = "Free some space, or move PIPELINE_STATE_DIR and the tracking store to another disk."
_ERROR_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PHRASES = ("no space left on device", "disk quota exceeded", "database or disk is full", "file too large")


@contextmanager
def disk_full_errors(folder: Path) -> Iterator[None]:
    """Raise `DiskFullError`, which names `folder`, in place of the OSError of a full disk (same errno)."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise DiskFullError(error.errno, f"{error.strerror}: {_free_space(folder)}. {REMEDY}") from error


def is_full(error: OSError) -> bool:
    """Return whether an OSError means that a disk or a quota is full."""
    return error.errno in _ERROR_NUMBERS


def disk_full_message(error: BaseException) -> str:
    """Return a message for the user if `error` or one of its causes comes from a full disk, else an empty string."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DiskFullError):
            return str(cause.strerror)
        text = str(cause)
        if (isinstance(cause, OSError) and is_full(cause)) or any(phrase in text.lower() for phrase in _PHRASES):
            path = Path(getattr(cause, "filename", None) or ".")
            return f"{text.splitlines()[0]}: {_free_space(path if path.is_dir() else path.parent)}. {REMEDY}"
        cause = cause.__cause__ or cause.__context__
    return ""


def _free_space(folder: Path) -> str:
    try:
        return f"{folder.resolve()} has {shutil.disk_usage(folder).free / 2**20:.1f} MiB free"
    except OSError:
        return f"free space of {folder.resolve()} is unknown"
