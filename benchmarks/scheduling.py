"""Overhead of the scheduler per step, with steps that do nothing: order, cached models, display, status file.

    python -m benchmarks.scheduling [--steps 2000]

The executor is simulated, so worker processes and the tracking store do not count. Bases and targets alternate, with a
hundred workers. Target: at most 20 ms per step, and linear in the number of steps.
"""  # fmt: skip

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
import time
from collections import deque
from types import TracebackType
from typing import Self

import click

from benchmarks.machine import machine
from pipeline.execution.records import Event, Report, Status, Task
from pipeline.execution.runner import Execution, run_plan
from pipeline.params import TrainBaseParams, TransferParams
from pipeline.plan.records import PlannedArm, Step

WORKERS = 100


class EmptySteps:
    """Completes each step at once."""

    capacity = WORKERS

    def __init__(self) -> None:
        self._tasks: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        """Queue a step."""
        self._tasks.append(task)

    def next_event(self) -> Event | None:
        """Return the report of the oldest step."""
        number = self._tasks.popleft().number
        return Report(number, Status.DONE, f"{number:032x}", f"models:/m-{number:032x}", seconds=5.0)

    def cancel(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        """Return this executor."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Do nothing."""


def plan_of(count: int) -> list[Step]:
    """Return `count` steps, half of which build on the step before."""
    base = PlannedArm("base", "base", TrainBaseParams, {}, "", count, "base")
    target = PlannedArm("target", "target", TransferParams, {}, "base", count, "target")
    steps = (
        Step(base, seed) if arm == 0 else Step(target, seed, ("base", seed)) for seed in range(count) for arm in (0, 1)
    )
    return [step for step, _ in zip(steps, range(count), strict=False)]


def seconds_for(count: int) -> float:
    """Return the wall-clock time of a plan of `count` steps."""
    execution = Execution(lambda: "", lambda display: EmptySteps(), rerun=True)
    began = time.perf_counter()
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        outcomes = run_plan(plan_of(count), execution, {})
    assert len(outcomes) == count and not any(outcome.failure for outcome in outcomes)
    return time.perf_counter() - began


@click.command()
@click.option("--steps", default=2000, show_default=True)
def main(steps: int) -> None:
    """Print the overhead per step for `steps`, and for a quarter and five times as many."""
    os.environ["PIPELINE_STATE_DIR"] = tempfile.mkdtemp()
    for count in (steps // 4, steps, 5 * steps):
        seconds = seconds_for(count)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{count} steps: {1000 * seconds / count:.2f} ms per step, {seconds:.2f} s, peak memory {peak:.0f} MiB")
    print(machine())


if __name__ == "__main__":
    main()
