"""Runs one step at a time in this process."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pipeline.console import step_output
from pipeline.execution.attempt import attempt
from pipeline.execution.display import PlanDisplay
from pipeline.execution.records import Event, Task
from pipeline.tracking.plan_context import PlanContext


@dataclass(frozen=True)
class _DisplayedStep:
    """Shows what a step prints in the plan's display."""

    display: PlanDisplay
    number: int

    def set_status(self, text: str) -> None:
        self.display.set_status(self.number, text)

    def warn(self, text: str) -> None:
        self.display.warn(text)


class InProcessExecutor:
    """Runs a step when its result is requested."""

    capacity = 1

    def __init__(self, display: PlanDisplay):
        self._display = display
        self._tasks: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        """Queue a step."""
        self._tasks.append(task)

    def next_event(self) -> Event | None:
        """Run the next step and return its report."""
        task = self._tasks.popleft()
        with step_output(_DisplayedStep(self._display, task.number)):
            return attempt(task, PlanContext(task.parent_run_id or None, rerun=task.rerun, tags=task.tags))

    def cancel(self) -> None:
        """Do nothing: the step has been interrupted by the same signal."""

    def __enter__(self) -> Self:
        """Return this executor."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Do nothing."""
