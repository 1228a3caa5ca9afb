"""Errors whose messages are written for users.

A `UserInputError` reports all faults of an input at once. Each states the name and value received, what is allowed, and
what to do next. The command line alone turns it into exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.redaction import without_password


@dataclass(frozen=True)
class Fault:
    """One invalid input."""

    name: str  # of the parameter, file or setting
    value: object  # what was received; None prints the name alone
    allowed: str  # what is wrong, or what would be accepted
    remedy: str = ""  # what to do next

    def __str__(self) -> str:
        """Return the fault as one line, with passwords redacted."""
        subject = f"{self.name}={self.value}" if self.value is not None else self.name
        return without_password(f"{subject}: {self.allowed}" + (f" {self.remedy}" if self.remedy else ""))


class UserInputError(ValueError):
    """Invalid user input, raised before any work starts, with all of its faults, so that they can be fixed at once."""

    def __init__(self, *faults: Fault) -> None:
        assert faults, "a UserInputError needs at least one fault"
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


class DataFileError(UserInputError):
    """A data file is missing, truncated, altered or unreadable."""


class EarlierReleaseError(ValueError):
    """A file was written by an earlier release in a format that is no longer read."""


class CheckpointError(RuntimeError):
    """A checkpoint file is missing, truncated or altered; the message names it."""


class DiskFullError(OSError):
    """A file does not fit on its disk; the message names the folder and what to do."""


class NonFiniteLossError(RuntimeError):
    """The training loss became NaN or infinite; the message names the epoch."""


class PlanIncompleteError(RuntimeError):
    """Some steps of a plan failed; the others ran, and the report lists what is missing."""


class ClusterLostError(RuntimeError):
    """The scheduler of a cluster is gone; completed steps stay cached, and the same command runs the others."""


class Interrupted(KeyboardInterrupt):
    """The process received Ctrl-C or SIGTERM; completed work has been saved."""


def invalid(name: str, value: object, problem: str, *, remedy: str = "") -> UserInputError:
    """Return a UserInputError with a single fault."""
    return UserInputError(Fault(name, value, problem, remedy))


def abbreviate(names: Sequence[str], limit: int) -> str:
    """Join names for a message: the first `limit`, with unprintable characters escaped, and a count of the rest."""
    first = ", ".join(name if name.isprintable() else ascii(name) for name in names[:limit])
    return first if len(names) <= limit else f"{first} and {len(names) - limit} more"


def suggest(word: str, known: Iterable[str]) -> str:
    """Return "Did you mean X?" for the closest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else ""
