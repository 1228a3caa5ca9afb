"""Runs steps in warm worker processes on this machine."""

from __future__ import annotations

import os
import queue
import shutil
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Literal, Self

from pipeline.execution.budget import available_cores, host_budget
from pipeline.execution.display import PlanDisplay
from pipeline.execution.executor import Executor
from pipeline.execution.in_process import InProcessExecutor
from pipeline.execution.records import Event, Task
from pipeline.execution.supervisor import Supervisor
from pipeline.state_dir import state_folder
from pipeline.tracking.recovery.orphans import try_to_close_orphaned_runs
from pipeline.tracking.store import store_environment

POLL_SECONDS = 1.0
INTERRUPT_SECONDS = 4.0  # to save checkpoints; Ctrl-C has to end a plan within five seconds
STOP_SECONDS = 10.0  # for an idle worker to exit


def make_executor(workers: int | Literal["auto"], display: PlanDisplay) -> Executor:
    """Return the executor for a number of workers; auto: one per core."""
    count = worker_count(workers)
    return LocalExecutor(count) if count > 1 else InProcessExecutor(display)


def worker_count(workers: int | Literal["auto"]) -> int:
    """Return the number of workers; auto: one per core."""
    return available_cores() if workers == "auto" else workers


class LocalExecutor:
    """Worker processes on this machine, each supervised by a thread; they share its cores."""

    def __init__(self, workers: int):
        self.capacity = workers
        self._budget = host_budget()
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()
        self._folder = state_folder() / "workers" / str(os.getpid())
        environment = worker_environment()
        self._supervisors = [Supervisor(self._budget, environment, self._folder / f"{n}.log") for n in range(workers)]
        self._threads = [
            threading.Thread(target=self._supervise, args=(supervisor,), daemon=True)
            for supervisor in self._supervisors
        ]

    def submit(self, task: Task) -> None:
        """Run a step in the next free worker process."""
        self._tasks.put(task)

    def next_event(self) -> Event | None:
        """Wait for output or the report of any step; None on a timeout."""
        try:
            event = self._events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return None
        if isinstance(event, Exception):
            raise event
        return event

    def cancel(self) -> None:
        """Interrupt all steps and wait until their processes have exited, for a few seconds."""
        self._budget.close()
        for supervisor in self._supervisors:
            supervisor.interrupt()
        deadline = time.monotonic() + INTERRUPT_SECONDS
        for supervisor in self._supervisors:
            supervisor.stop(max(0.1, deadline - time.monotonic()))
        # of a worker that was killed, or interrupted while it created its run
        try_to_close_orphaned_runs()

    def __enter__(self) -> Self:
        """Start the supervising threads; a worker process starts with its first step."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End the worker processes."""
        for _ in self._threads:
            self._tasks.put(None)
        for supervisor in self._supervisors:
            supervisor.stop(STOP_SECONDS)
        if error is None:  # else the logs may say why
            shutil.rmtree(self._folder, ignore_errors=True)

    def _supervise(self, supervisor: Supervisor) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._events.put(supervisor.run(task, self._events.put))
            except Exception as error:  # a defect; without it, the plan would wait for this step forever
                self._events.put(error)


def worker_environment() -> Mapping[str, str]:
    """Return the environment of a worker process: that of this process, with its store and experiment."""
    return {**os.environ, **store_environment()}
