"""Overhead of the scheduler per step, with steps that do nothing: order, cached models, display, status file.

    python -m benchmarks.scheduling [--steps 2000]

The executor is simulated, so worker processes and the tracking store do not count. Bases and targets alternate, with a
hundred workers. Target: at most 20 ms per step, and linear in the number of steps.

The second table has steps of five seconds in simulated time: the clock advances by the time that the scheduler takes,
and jumps to the end of the next step when it waits. `benchmarks.cluster` measures a real cluster.
"""  # fmt: skip

from __future__ import annotations

import contextlib
import heapq
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
STEP_SECONDS = 5.0
SIMULATED = ((1, 1000), (10, 1000), (100, 1000), (100, 3000), (100, 10_000))  # workers, steps


class EmptySteps:
    """Completes each step at once."""

    def __init__(self) -> None:
        self.capacity = WORKERS
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


class TimedSteps(EmptySteps):
    """Completes each step after five seconds of simulated time."""

    def __init__(self, workers: int):
        self.capacity = workers
        self._began, self._skipped = time.perf_counter(), 0.0
        self._ends: list[tuple[float, int]] = []  # a heap: when each running step ends, and its number

    def clock(self) -> float:
        """Return the simulated time since the start, in s."""
        return time.perf_counter() - self._began + self._skipped

    def submit(self, task: Task) -> None:
        """Start a step."""
        heapq.heappush(self._ends, (self.clock() + STEP_SECONDS, task.number))

    def next_event(self) -> Event | None:
        """Advance the clock to the end of the next step and return its report."""
        end, number = heapq.heappop(self._ends)
        self._skipped += max(0.0, end - self.clock())
        return Report(number, Status.DONE, f"{number:032x}", f"models:/m-{number:032x}", seconds=STEP_SECONDS)


def plan_of(count: int) -> list[Step]:
    """Return `count` steps, half of which build on the step before."""
    base = PlannedArm("base", "base", TrainBaseParams, {}, "", count, "base")
    target = PlannedArm("target", "target", TransferParams, {}, "base", count, "target")
    steps = (
        Step(base, seed) if arm == 0 else Step(target, seed, ("base", seed)) for seed in range(count) for arm in (0, 1)
    )
    return [step for step, _ in zip(steps, range(count), strict=False)]


def run_steps(count: int, executor: EmptySteps) -> float:
    """Run a plan of `count` steps and return its wall-clock time."""
    execution = Execution(lambda: "", lambda display: executor, rerun=True)
    began = time.perf_counter()
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        outcomes = run_plan(plan_of(count), execution, {})
    assert len(outcomes) == count and not any(outcome.failure for outcome in outcomes)
    return time.perf_counter() - began


def peak_mib() -> float:
    """Return the peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@click.command()
@click.option("--steps", default=2000, show_default=True)
def main(steps: int) -> None:
    """Print the overhead per step for `steps`, and for a quarter and five times as many; then simulated plans."""
    os.environ["PIPELINE_STATE_DIR"] = tempfile.mkdtemp()
    for count in (steps // 4, steps, 5 * steps):
        seconds = run_steps(count, EmptySteps())
        print(f"{count} steps: {1000 * seconds / count:.2f} ms per step, {seconds:.2f} s, peak {peak_mib():.0f} MiB")
    for workers, count in SIMULATED:
        executor = TimedSteps(workers)
        run_steps(count, executor)
        ideal, simulated = count * STEP_SECONDS / workers, executor.clock()
        share = f"{100 * ideal / simulated:.1f} % of ideal"
        print(f"{workers} workers, {count} steps of 5 s: {simulated:.0f} s, {share}, peak {peak_mib():.0f} MiB")
    print(machine())


if __name__ == "__main__":
    main()
