"""Execution of a plan's steps: order, retries, cores, and what worker processes print and report."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from pipeline.execution.budget import CoreBudget
from pipeline.execution.display import PlanDisplay, StepLabel
from pipeline.execution.local import make_executor
from pipeline.execution.records import Event, Output, Report, Status, Task
from pipeline.execution.runner import Execution, run_plan
from pipeline.execution.status import StatusFile, print_status
from pipeline.execution.supervisor import Supervisor
from pipeline.execution.worker import cores_needed
from pipeline.params import CacheFeaturesParams, StageParams, TrainBaseParams, TransferParams, TuneParams
from pipeline.plan.outcome import Outcome
from pipeline.plan.records import PlannedArm, Step, predecessors


class FakeExecutor:
    """Answers each task with the events of a script; records what was submitted and how much at a time."""

    def __init__(self, capacity: int, answer: Callable[[Task], list[Event]]):
        self.capacity, self._answer = capacity, answer
        self.submitted: list[int] = []
        self.cancelled = False
        self.most = 0
        self._waiting: deque[Task] = deque()
        self._events: deque[Event] = deque()

    def submit(self, task: Task) -> None:
        self.submitted.append(task.number)
        self._waiting.append(task)
        self.most = max(self.most, len(self._waiting))

    def next_event(self) -> Event | None:
        if not self._events:
            self._events.extend(self._answer(self._waiting.pop()))  # the last one first: any order may happen
        return self._events.popleft()

    def cancel(self) -> None:
        self.cancelled = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass


def arm(name: str, base: str = "", kind: type[StageParams] = TransferParams, **setting: Any) -> PlannedArm:
    return PlannedArm(name, name, kind, setting, base, 1, name)


def step(name: str, base: str = "", kind: type[StageParams] = TransferParams, **setting: Any) -> Step:
    return Step(arm(name, base, kind, **setting), 0, (base, 0) if base else None)


def done(task: Task) -> list[Event]:
    return [Report(task.number, Status.DONE, f"run {task.number}", f"models:/m-{task.number}", seconds=1.0)]


BASE_AND_TWO = [step("base", kind=TrainBaseParams), step("one", "base"), step("two", "base"), step("three", "two")]


def run(steps: list[Step], executor: FakeExecutor) -> list[Outcome]:
    return run_plan(steps, Execution(lambda: "plan run", lambda display: executor, rerun=True), {})


def test_steps_wait_for_their_bases() -> None:
    executor = FakeExecutor(4, done)
    outcomes = run(BASE_AND_TWO, executor)
    assert executor.submitted == [0, 1, 2, 3] and executor.most == 2
    assert [outcome.run_id for outcome in outcomes] == ["run 0", "run 1", "run 2", "run 3"]


def test_base_uri_is_that_of_the_base_step() -> None:
    bases = {}

    def answer(task: Task) -> list[Event]:
        bases[task.number] = task.raw_params.get("base")
        return done(task)

    run(BASE_AND_TWO, FakeExecutor(4, answer))
    assert bases == {0: None, 1: "models:/m-0", 2: "models:/m-0", 3: "models:/m-2"}


def test_no_more_steps_are_submitted_than_capacity() -> None:
    executor = FakeExecutor(3, done)
    run([step(str(number)) for number in range(10)], executor)
    assert executor.most == 3 and sorted(executor.submitted) == list(range(10))


def test_failure_skips_only_dependents() -> None:
    def answer(task: Task) -> list[Event]:
        return [Report(2, Status.FAILED, failure="ValueError: no")] if task.number == 2 else done(task)

    failures = [outcome.failure for outcome in run(BASE_AND_TWO, FakeExecutor(2, answer))]
    assert failures == ["", "", "ValueError: no", "its base two seed 0 is missing"]


@pytest.mark.parametrize(("kills", "failure"), [(2, ""), (3, "its worker process was killed by signal 9")])
def test_killed_step_is_run_again_twice(kills: int, failure: str) -> None:
    left = [kills]

    def answer(task: Task) -> list[Event]:
        left[0] -= 1
        return (
            [Report(0, Status.LOST, failure="its worker process was killed by signal 9")]
            if left[0] >= 0
            else done(task)
        )

    executor = FakeExecutor(1, answer)
    (outcome,) = run([step("base")], executor)
    assert outcome.failure == failure and len(executor.submitted) == 3


def test_steps_that_run_alone_come_last() -> None:
    steps = [step("timed"), step("one"), step("study", kind=TuneParams), step("two")]
    steps[0] = replace(steps[0], arm=replace(steps[0].arm, exclusive=True))
    executor = FakeExecutor(1, done)
    run(steps, executor)
    assert executor.submitted == [1, 3, 0, 2]


def test_interrupt_cancels_running_steps() -> None:
    def answer(task: Task) -> list[Event]:
        raise KeyboardInterrupt

    executor = FakeExecutor(1, answer)
    with pytest.raises(KeyboardInterrupt):
        run([step("base")], executor)
    assert executor.cancelled


def test_output_of_a_step_is_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    def answer(task: Task) -> list[Event]:
        return [Output(0, "epoch 1"), Output(0, "not converged", warning=True), *done(task)]

    run([step("base")], FakeExecutor(1, answer))
    printed = capsys.readouterr()
    assert "epoch 1" not in printed.out and printed.err == "not converged\n"


def test_step_with_auto_features_follows_the_step_that_caches_them() -> None:
    steps = [
        step("base", kind=TrainBaseParams),
        step("auto", "base", features="auto"),
        step("none", "base"),
        step("cache", "base", kind=CacheFeaturesParams),
    ]
    assert predecessors(steps) == {0: set(), 1: {0, 3}, 2: {0}, 3: {0}}


def test_estimate_divides_by_the_number_of_workers() -> None:
    display = PlanDisplay([StepLabel("arm", seed, "transfer") for seed in range(9)])
    display.workers = 4
    display.end(0, "", seconds=10.0)
    assert display.time_left() == "; about 20 s left"
    display = PlanDisplay([StepLabel("arm", seed, "transfer", alone=seed in (1, 2)) for seed in range(9)])
    display.workers = 4
    display.end(0, "", seconds=10.0)
    assert display.time_left() == "; about 35 s left"


def test_status_shows_running_plans_of_live_processes(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    display = PlanDisplay([StepLabel("arm", seed, "transfer") for seed in range(4)])
    display.end(0, "cached", seconds=None)
    display.end(1, "10.0 s", seconds=10.0)
    display.start(2)
    display.set_status(2, "epoch 7/30")
    capsys.readouterr()
    with StatusFile(display) as file:
        file.save()
        print_status()
        shown = capsys.readouterr().out
        assert f"plan of process {os.getpid()} on" in shown and "seed 2: epoch 7/30" in shown
        assert "2 of 4 steps, 1 running, 1 cached" in shown and "about 20 s left" in shown
        monkeypatch.setattr("pipeline.execution.status.process_lives", lambda process, host: False)
        print_status()
        assert "no plan is running" in capsys.readouterr().out
    assert not list(state.glob("plans/*"))


def test_cores_are_lent_in_order_and_never_twice(tmp_path: Path) -> None:
    budget, order = CoreBudget(2, tmp_path), []
    assert budget.take(1) == 1

    def take(count: int) -> None:
        order.append(budget.take(count))

    threads = []
    for count in (5, 1):  # all cores, although another step could have the free one
        threads.append(threading.Thread(target=take, args=(count,)))
        threads[-1].start()
        time.sleep(0.05)
    assert order == []
    budget.give_back(1)
    threads[0].join()
    assert order == [2]
    budget.give_back(2)
    threads[1].join()
    assert order == [2, 1]


def test_closing_the_budget_ends_waiting(tmp_path: Path) -> None:
    budget = CoreBudget(1, tmp_path)
    budget.take(1)
    threading.Timer(0.05, budget.close).start()
    assert budget.take(1) == 0


def test_commands_on_one_host_share_its_cores(tmp_path: Path) -> None:
    first, second = CoreBudget(2, tmp_path), CoreBudget(2, tmp_path)
    assert first.take(2) == 2
    threading.Timer(0.1, second.close).start()
    assert second.take(1) == 0
    first.give_back(1)
    assert CoreBudget(2, tmp_path).take(1) == 1


def test_step_needs_as_many_cores_as_threads() -> None:
    assert cores_needed(TransferParams(base="models:/m-" + 32 * "0", threads=3)) == 3
    assert cores_needed(TuneParams(threads=1)) is None  # its own workers use all


def test_error_of_a_supervising_thread_ends_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Supervisor, task: Task, show: Callable[[Output], None]) -> Report:
        raise TypeError("cannot be sent")

    monkeypatch.setattr(Supervisor, "run", fail)
    execution = Execution(lambda: "plan run", lambda display: make_executor(2, display), rerun=True)
    with pytest.raises(TypeError, match="cannot be sent"):
        run_plan(BASE_AND_TWO, execution, {})


def test_one_worker_runs_steps_in_process() -> None:
    assert type(make_executor(1, PlanDisplay([]))).__name__ == "InProcessExecutor"
