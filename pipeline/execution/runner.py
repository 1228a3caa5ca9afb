"""Runs the steps of a plan, each after its base. A failed step fails only the steps that build on it.

Steps are submitted to an executor. Cached results are looked up in this process until the first step has to run, so
that a cached plan starts no workers.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from graphlib import TopologicalSorter

from pipeline.console import echo
from pipeline.execution.display import PlanDisplay, StepLabel
from pipeline.execution.executor import Executor
from pipeline.execution.in_process import InProcessExecutor
from pipeline.execution.records import Output, Report, Status, Task
from pipeline.execution.status import StatusFile
from pipeline.plan.outcome import Outcome
from pipeline.plan.records import Plan, Step, predecessors, walk
from pipeline.tracking import names
from pipeline.tracking.claims import open_claims
from pipeline.tracking.stage_run import StageResult

MAX_RETRIES = 2  # per step, if its process is killed
CLAIM_POLL_SECONDS = 1.0

ExecutorFactory = Callable[[PlanDisplay], Executor]
Models = dict[tuple[str, int], str]  # URI of a step's model (empty if it has none), by arm and seed


@dataclass(frozen=True)
class Execution:
    """How the steps of a plan are run."""

    open_plan_run: Callable[[], str]  # creates the plan run, and returns its id; not called if every step is cached
    make_executor: ExecutorFactory = InProcessExecutor  # returns what runs the steps that are not cached
    rerun: bool = False  # ignore cached results
    explain: bool = False  # show for each step why it was or was not cached


def run_plan(steps: list[Step], execution: Execution, models: Models) -> list[Outcome]:
    """Run the steps that are not cached, and return one outcome per step, in plan order.

    Args:
        steps: Each after its base.
        execution: How they are run.
        models: Models of earlier steps, on which these may build; theirs are added.
    """
    with PlanDisplay([label_of(step) for step in steps]) as display, StatusFile(display) as status:
        runner = PlanRunner(steps, display, models, explain=execution.explain)
        runner.on_change = status.save
        if not execution.rerun:
            with InProcessExecutor(display) as executor:
                runner.run(executor)
        if runner.is_active():
            parent_run_id = execution.open_plan_run()
            with execution.make_executor(display) as executor:
                runner.run(executor, parent_run_id, rerun=execution.rerun)
    return [runner.outcomes[number] for number in range(len(steps))]


class PlanRunner:
    """Decides which step runs next; keeps the results of those that are done."""

    def __init__(self, steps: list[Step], display: PlanDisplay, models: Models, *, explain: bool):
        self.outcomes: dict[int, Outcome] = {}  # by step number
        self.on_change: Callable[[], None] = lambda: None  # called before each wait for an event
        self._steps, self._display, self._models, self._explain = steps, display, models, explain
        self._losses: Counter[int] = Counter()  # killed processes by step number
        self._ready: list[tuple[bool, int]] = []  # a heap: steps that run alone come last, each kind in plan order
        self._in_flight: set[int] = set()
        self._claimed: dict[int, str] = {}  # claims of the steps that other commands run, by step number
        self._looked = 0.0  # when the claims were last checked
        self._order = TopologicalSorter(predecessors(steps))
        self._order.prepare()

    def is_active(self) -> bool:
        """Whether any step is not done."""
        return self._order.is_active()

    def run(self, executor: Executor, parent_run_id: str = "", *, rerun: bool = False) -> None:
        """Run all steps; without a plan run, look up cached results until a step has none."""
        try:
            while self.is_active():
                self._display.workers = executor.capacity
                for number in (*self._order.get_ready(), *self._released()):
                    self._enqueue(number)
                while self._ready and len(self._in_flight) < executor.capacity:
                    self._start(executor, heapq.heappop(self._ready)[1], parent_run_id, rerun=rerun)
                self.on_change()
                if not self._in_flight and self._claimed:
                    time.sleep(CLAIM_POLL_SECONDS)
                event = executor.next_event() if self._in_flight else None
                if isinstance(event, Output):
                    self._show(event)
                elif event is not None:
                    self._in_flight.discard(event.number)
                    if event.status == Status.NOT_CACHED:
                        self._enqueue(event.number)
                        return
                    self._take(event)
        except BaseException:
            executor.cancel()
            raise

    def _start(self, executor: Executor, number: int, parent_run_id: str, *, rerun: bool) -> None:
        """Submit a step, or fail it if it has no base."""
        step = self._steps[number]
        if step.base is not None and step.base not in self._models:
            failure = f"its base {step.base[0]} seed {step.base[1]} is missing"
            self._end(Report(number, Status.FAILED, failure=failure))
            return
        base_uri = self._models[step.base] if step.base is not None else ""
        self._in_flight.add(number)
        self._display.start(number)
        raw_params, tags = step.raw_params(base_uri), {names.ARM: step.arm.name, names.ARM_LABEL: step.arm.label}
        entry_point, exclusive = step.arm.kind.entry_point, bool(step.arm.exclusive)
        executor.submit(Task(number, entry_point, raw_params, parent_run_id, rerun, exclusive, tags))

    def _enqueue(self, number: int) -> None:
        heapq.heappush(self._ready, (self._display.steps[number].alone, number))

    def _released(self) -> list[int]:
        """Return the steps that other commands have run, or no longer run."""
        if not self._claimed or time.monotonic() - self._looked < CLAIM_POLL_SECONDS:
            return []
        claims, self._looked = open_claims(), time.monotonic()
        released = [number for number, key in self._claimed.items() if not claims.is_held(key)]
        for number in released:
            del self._claimed[number]
        return released

    def _show(self, output: Output) -> None:
        if output.warning:
            self._display.warn(output.text)
        else:
            self._display.set_status(output.number, output.text)

    def _take(self, report: Report) -> None:
        """Store the report of a step; retry a step whose process was killed, a few times.

        A step that another command runs is looked up again when that command has released it.
        """
        if report.status == Status.CLAIMED:
            self._claimed[report.number] = report.claim_key
            step = self._steps[report.number]
            self._display.wait(report.number, f"{step.arm.label}, seed {step.seed}: {report.failure}; waiting for it")
            return
        if report.status == Status.LOST:
            self._losses[report.number] += 1
            if self._losses[report.number] <= MAX_RETRIES:
                step = self._steps[report.number]
                text = f"{step.arm.label}, seed {step.seed}: {report.failure}; running it again"
                self._display.wait(report.number, text)
                self._enqueue(report.number)
                return
        self._end(report)

    def _end(self, report: Report) -> None:
        """Record and show the outcome of a step."""
        number, step = report.number, self._steps[report.number]
        self.outcomes[number] = Outcome(*step.place, report.run_id, report.reused, report.seconds, report.failure)
        if not report.failure:
            self._models[step.place] = report.model_uri
        reason = f" ({report.why})" if self._explain and not report.failure else ""
        seconds = report.seconds if not report.reused and report.seconds else None
        self._display.end(number, describe(report) + reason, seconds=seconds)
        self._order.done(number)


def label_of(step: Step) -> StepLabel:
    """Return a step's label; a study's workers take all cores, so it runs alone too."""
    kind = step.arm.kind.entry_point
    return StepLabel(step.arm.label, step.seed, kind, alone=bool(step.arm.exclusive) or kind == "tune")


def describe(report: Report) -> str:
    """Return a step's outcome in a few words."""
    if report.failure:
        return f"FAILED: {report.failure}"
    accuracy = report.metrics.get(names.TEST_ACCURACY)
    status = "cached" if report.reused else f"{report.seconds:.1f} s"
    return status if accuracy is None else f"{status}, test accuracy {100 * accuracy:.2f} %"


def print_plan(plan: Plan) -> StageResult:
    """Print the steps of a plan (the dry run of `main`)."""
    steps = walk(plan)
    echo(f"dry run of {plan.name}, profile {plan.profile}: {len(steps)} steps, {len(plan.arms)} arms")
    for step in steps:
        base = f" on {step.base[0]} seed {step.base[1]}" if step.base else ""
        params = " ".join(f"{name}={value}" for name, value in step.setting.items() if name != "data_dir")
        echo(f"{step.arm.name} seed {step.seed}: {step.arm.kind.entry_point}{base} {params}")
    return StageResult("", "", {})
