"""The interface between the runner of a plan and whatever runs its steps."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from pipeline.execution.records import Event, Task


class Executor(Protocol):
    """Runs steps. Their order, cache keys, retries and the report are up to the runner."""

    @property
    def capacity(self) -> int:
        """The number of steps that may be submitted at a time."""

    def submit(self, task: Task) -> None:
        """Run a step whose base is done; returns immediately."""

    def next_event(self) -> Event | None:
        """Wait for output or the report of any step; None on a timeout."""

    def cancel(self) -> None:
        """Interrupt all steps: they save a checkpoint and end, within seconds."""

    def __enter__(self) -> Self:
        """Return this executor."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Release the executor's processes."""
