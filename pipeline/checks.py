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
    """The result of one check.

    Attributes:
        state: `ok`, `note` (worth knowing; stages still work) or `FAIL` (a stage would fail).
        what: The subject, in a word or two.
        text: The observation.
        fix: What to do about it, or empty.
    """

    state: State
    what: str
    text: str
    fix: str = ""

    def __str__(self) -> str:
        """Return one line, without passwords."""
        line = " ".join(f"{self.what}: {self.text}".split())
        return without_password(f"{self.state:4}  {line}" + (f"  ->  {self.fix}" if self.fix else ""))


def unwritable_reason(folder: Path) -> str:
    """Return why no file can be created in `folder` (or its nearest existing parent), or an empty string."""
    parent = folder.absolute()
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    try:
        with tempfile.TemporaryFile(dir=parent):
            return ""
    except OSError as error:
        return f"{parent}: {error.strerror}"
