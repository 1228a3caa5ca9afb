"""What runs inside a Dask worker: each of its threads supervises one warm worker process, which runs the steps.

Dask can neither interrupt a task nor end the processes that one has started. So a step runs in a process of its own,
which ends when its command cancels it or is gone, when the scheduler is gone, and when this Dask worker is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from distributed import Status as WorkerStatus
from distributed import Worker, get_worker

from pipeline.execution.budget import CoreBudget, host_budget
from pipeline.execution.cluster_address import is_exposed
from pipeline.execution.records import Report, Status, Task
from pipeline.execution.supervisor import Supervisor
from pipeline.state_dir import state_folder

POLL_SECONDS = 0.5
STOP_SECONDS = 10.0  # for an interrupted step to save its checkpoint
ENDING = (WorkerStatus.closing, WorkerStatus.closed, WorkerStatus.failed, WorkerStatus.stopping)
# Dask sets some of these for its workers; with other values, weights or speed could differ from one host to another
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT",
    "MALLOC_TRIM_THRESHOLD_",
)  # fmt: skip


@dataclass(frozen=True)
class Owner:
    """The command that runs a plan on the cluster."""

    topic: str  # of the events by which it gets what its steps print
    environment: dict[str, str]  # its experiment, and its values of THREAD_VARIABLES


@dataclass(frozen=True)
class WarmProcess:
    """The worker process of one thread, and the cores lent to it."""

    supervisor: Supervisor
    budget: CoreBudget
    environment: dict[str, str]

    def end(self) -> None:
        """Interrupt the running step and wait until the process has exited; kill it when time is up."""
        self.budget.close()
        self.supervisor.interrupt()
        self.supervisor.stop(STOP_SECONDS)


_this_thread = threading.local()  # its warm process
_running: dict[str, tuple[str, WarmProcess]] = {}  # topic and process of each running step, by Dask key


def run_step(task: Task, owner: Owner) -> Report:
    """Run a step in this thread's worker process. A Dask task."""
    process = _warm_process(owner.environment)
    topic, worker = owner.topic, get_worker()
    with _watched(process, topic, worker):
        report = process.supervisor.run(task, lambda output: worker.log_event(topic, {"output": asdict(output)}))
    if report.status == Status.LOST:
        _this_thread.process = None
    return report


def host_facts_here(data: list[dict[str, str]], owner: Owner) -> dict[str, str]:
    """Return what this host's steps would compute with; see `stages.host_facts`. A Dask task.

    Raises:
        PermissionError: Others can send code to this worker.
    """
    for listener in get_worker().listeners:  # its contact address may be on loopback although it listens everywhere
        if is_exposed(listener.listen_address):
            raise PermissionError(
                f"it listens on {listener.listen_address} without TLS: start it with --host 127.0.0.1"
            )
    return _warm_process(owner.environment).supervisor.facts(data)


def interrupt_steps(topic: str) -> None:
    """Interrupt the steps of one command."""
    for owner, process in list(_running.values()):
        if owner == topic:
            threading.Thread(target=process.end, daemon=True).start()


def _warm_process(environment: dict[str, str]) -> WarmProcess:
    """Return this thread's process, started with an environment.

    The kernel ends a process with the thread that has started it, and Dask keeps its threads.
    """
    process: WarmProcess | None = getattr(_this_thread, "process", None)
    if process is None or process.environment != environment:
        if process is not None:
            process.supervisor.stop(STOP_SECONDS)
        log = state_folder() / "workers" / str(os.getpid()) / f"{threading.get_ident()}.log"
        inherited = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
        budget = host_budget()
        process = WarmProcess(Supervisor(budget, {**inherited, **environment}, log), budget, environment)
        _this_thread.process = process
    return process


@contextmanager
def _watched(process: WarmProcess, topic: str, worker: Worker) -> Iterator[None]:
    """End the process if the running task is no longer wanted: cancelled, or its owner or the scheduler is gone."""
    key, ended = str(worker.get_current_task()), threading.Event()

    def watch() -> None:
        while not ended.wait(POLL_SECONDS):
            task = worker.state.tasks.get(key)
            if worker.status in ENDING or task is None or task.state != "executing":
                process.end()

    _running[key] = topic, process
    threading.Thread(target=watch, name="watch", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        del _running[key]
