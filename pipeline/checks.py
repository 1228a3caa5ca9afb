"""What the pre-flight check finds: one line each, with the fix."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.redaction import without_password

State = Literal["ok", "note", "FAIL"]


@dataclass(frozen=True)
class CheckResult:
    """One thing that was looked at.

    Attributes:
        state: `ok`, `note` (worth knowing, nothing would fail) or `FAIL` (a stage would).
        what: What was looked at, in a word or two.
        text: What was found.
        fix: What to do about it; empty where nothing needs to be done.
    """

    state: State
    what: str
    text: str
    fix: str = ""

    def __str__(self) -> str:
        """Return the finding as one line that holds no password."""
        line = " ".join(f"{self.what}: {self.text}".split())
        return without_password(f"{self.state:4}  {line}" + (f"  ->  {self.fix}" if self.fix else ""))


def unwritable_reason(folder: Path) -> str:
    """Return why a file cannot be made in a folder, or in the nearest one above it that exists; else nothing."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            return ""
    except OSError as error:
        return f"{existing}: {error.strerror}"
