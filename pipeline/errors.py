"""What can go wrong by the user's hand, in words that help.

A `UserInputError` carries every fault found, each with three facts: what was received, what is allowed,
what to do next. Only `cli.py` turns it into lines and exit code 2; everything else lets it pass.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.redaction import without_password


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with what the user asked for.

    Attributes:
        name: The parameter, file or setting at fault.
        value: What was received, as the user would recognise it.
        allowed: What would have been accepted.
        remedy: What to do next.
    """

    name: str
    value: object
    allowed: str
    remedy: str = ""

    def __str__(self) -> str:
        """Return the fault as one line that holds no password."""
        shown = f"{self.name}={self.value}" if self.value is not None else self.name
        return without_password(f"{shown}: {self.allowed}" + (f" {self.remedy}" if self.remedy else ""))


class UserInputError(ValueError):
    """Something the user asked for cannot be done; nothing was started.

    Args:
        faults: Everything that was found wrong, so that it can be mended in one go.
    """

    def __init__(self, *faults: Fault) -> None:
        assert faults, "a UserInputError needs at least one fault"
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


class DataFileError(UserInputError):
    """A data file is missing, truncated, altered or not readable."""


class CheckpointError(RuntimeError):
    """A checkpoint file is missing, truncated or altered; the message names it."""


class DiskFullError(OSError):
    """A file does not fit on its disk; the message names the folder and what to do."""


class NonFiniteLossError(RuntimeError):
    """Training produced a loss that is not a number or infinite; the message says in which epoch."""


class PlanIncompleteError(RuntimeError):
    """Some steps of a study failed; the others were carried out, and the report says what is missing."""


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop (Ctrl-C or SIGTERM); work so far has been saved."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return "did you mean X?" for the nearest known word, or an empty string."""
    near: Sequence[str] = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else ""
