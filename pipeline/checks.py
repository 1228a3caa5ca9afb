"""Results of the environment check, printed as one line per check, with the fix."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.redaction import without_password

State = Literal["ok", "note", "FAIL"]


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    state: State  # `ok`, `note` (worth knowing; stages still work) or `FAIL` (a stage would fail)
    what: str  # the subject, in a word or two
    text: str  # the observation
    fix: str = ""  # what to do about it, or empty

    def __str__(self) -> str:
        """Return one line, without passwords."""
        line = " ".join(f"{self.what}: {self.text}".split())
        return without_password(f"{self.state:4}  {line}" + (f"  ->  {self.fix}" if self.fix else ""))


def nearest_existing(path: Path) -> Path:
    """Return `path`, or its nearest parent that exists."""
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())


def unwritable_reason(folder: Path) -> str:
    """Return why no file can be created in `folder` (or its nearest existing parent), or an empty string."""
    parent = nearest_existing(folder)
    try:
        with tempfile.TemporaryFile(dir=parent):
            return ""
    except OSError as error:
        return f"{parent}: {error.strerror}"
