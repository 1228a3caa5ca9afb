"""Runs steps on a Dask cluster. Dask places them; order, cache keys, failures and the report stay here.

A worker gets steps once its host has been compared with this one. Dask may run a step on any worker that was accepted
when the step was submitted, and runs it on another one of these if its worker is killed.
Read `dask_worker` next, which runs in the cluster's workers.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from distributed import Client, Future, KilledWorker
from distributed.comm.core import CommClosedError
from distributed.security import Security

from pipeline.errors import ClusterLostError, invalid
from pipeline.execution.cluster_address import USE_TLS, is_exposed
from pipeline.execution.dask_worker import (
    THREAD_VARIABLES,
    Owner,
    host_facts_here,
    interrupt_steps,
    run_step,
)
from pipeline.execution.records import Event, Output, Report, Status, Task
from pipeline.tracking.store import active_experiment_id

POLL_SECONDS = 1.0
CONNECT_SECONDS = 8.0
INTERRUPT_SECONDS = 4.0  # to save checkpoints; Ctrl-C has to end a plan within five seconds
CLOSE_SECONDS = 2.0
LOST = "the Dask scheduler is gone; completed steps are cached. Start it and run the same command again"


@dataclass(frozen=True)
class HostCheck:
    """What a worker's host must have in common with this one."""

    data: list[dict[str, str]]  # parameters of the datasets
    facts: dict[str, str]  # of this host; see `stages.host_facts`

    def differences(self, facts: dict[str, str]) -> str:
        """Return what differs on another host, or an empty string."""
        differing = [name for name, value in self.facts.items() if facts.get(name) != value]
        return "; ".join(f"{name}: {facts.get(name, 'unknown')} there, {self.facts[name]} here" for name in differing)


class DaskExecutor:
    """Submits steps to a scheduler, as many as the accepted workers have threads."""

    def __init__(self, address: str, check: HostCheck):
        self._check, self._client = check, connect(address)
        environment = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
        self._owner = Owner(f"plan-{uuid.uuid4().hex}", {**environment, "MLFLOW_EXPERIMENT_ID": active_experiment_id()})
        self._events: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()
        self._lock = threading.RLock()  # guards the next three
        self._slots: dict[str, int] = {}  # threads of the accepted workers, by address
        self._waiting: list[Task] = []  # for an accepted worker
        self._submitted: dict[int, tuple[Future[Report], frozenset[str]]] = {}  # with allowed workers, by step number
        self._names: dict[str, str] = {}  # of all workers seen, by address
        self._inspections: list[Future[dict[str, str]]] = []  # kept, since Dask cancels a task that nobody refers to
        self._closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch_workers, name="workers", daemon=True)

    @property
    def capacity(self) -> int:
        """The number of steps that may be submitted at a time."""
        with self._lock:
            return max(1, sum(self._slots.values()))

    def submit(self, task: Task) -> None:
        """Run a step on any accepted worker, as soon as there is one."""
        with self._lock:
            if not self._slots:
                self._waiting.append(task)
                return
            key, allowed = f"{self._owner.topic}-{task.number}-{uuid.uuid4().hex[:8]}", frozenset(self._slots)
            future = self._client.submit(
                run_step, task, self._owner, key=key, pure=False, workers=list(allowed), allow_other_workers=False
            )
            self._submitted[task.number] = future, allowed
        future.add_done_callback(partial(self._take, task.number))

    def next_event(self) -> Event | None:
        """Wait for output or the report of any step; None after a while without any.

        Raises:
            ClusterLostError: The scheduler is gone.
        """
        try:
            event = self._events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if self._client.status != "running":
                raise ClusterLostError(LOST) from None
            return None
        if isinstance(event, Exception):
            raise event
        return event

    def cancel(self) -> None:
        """Interrupt all steps and wait until their processes have exited, for a few seconds."""
        self._closing.set()
        if self._client.status != "running":
            return  # the workers notice themselves
        with suppress(CommClosedError, OSError, TimeoutError):
            self._client.run(interrupt_steps, self._owner.topic, on_error="ignore")
            futures = [future for future, _ in self._submitted.values()]
            deadline = time.monotonic() + INTERRUPT_SECONDS
            while time.monotonic() < deadline and not all(future.done() for future in futures):
                time.sleep(0.05)
            self._client.cancel(futures)

    def __enter__(self) -> Self:
        """Start to look for workers."""
        self._client.subscribe_topic(self._owner.topic, self._show)
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Leave the cluster; its workers stay warm for the next command."""
        self._closing.set()
        with suppress(CommClosedError, OSError, TimeoutError):
            self._client.close(timeout=CLOSE_SECONDS)

    def _take(self, number: int, future: Future[Report]) -> None:
        """Queue the report of a step that has ended; called by a thread of Dask's."""
        with self._lock:
            if self._closing.is_set() or self._submitted.get(number, (None,))[0] is not future:
                return  # cancelled here
            if not future.cancelled():
                del self._submitted[number]
        try:
            if future.cancelled():
                self._events.put(ClusterLostError(LOST))
            else:
                self._events.put(future.result(timeout=CONNECT_SECONDS))
        except KilledWorker:
            self._events.put(Report(number, Status.LOST, failure="its Dask workers were killed"))
        except Exception as error:  # a defect; without it, the plan would wait for this step forever
            self._events.put(error if self._client.status == "running" else ClusterLostError(LOST))

    def _show(self, event: tuple[float, dict[str, Any]]) -> None:
        self._events.put(Output(**event[1]["output"]))

    def _warn(self, text: str) -> None:
        self._events.put(Output(0, text, warning=True))

    def _watch_workers(self) -> None:
        """Inspect workers that join, and say which have left."""
        while not self._closing.is_set():
            try:
                workers = self._client.scheduler_info()["workers"]
            except (CommClosedError, OSError, TimeoutError):
                return  # `next_event` raises
            self._forget([address for address in self._names if address not in workers])
            for address, worker in workers.items():
                if address not in self._names:
                    self._names[address] = str(worker["name"])
                    self._inspect(address, worker["nthreads"])
            if not workers:
                self._warn("the cluster has no worker yet; waiting for one")
            self._closing.wait(POLL_SECONDS)

    def _forget(self, addresses: list[str]) -> None:
        """Note that workers are gone; steps that no other worker may run are lost."""
        with self._lock:
            for address in addresses:
                name = self._names.pop(address)
                if self._slots.pop(address, 0):
                    self._warn(f"worker {name} at {address} is gone; its steps run on others")
            lost = {n: future for n, (future, allowed) in self._submitted.items() if not allowed & self._slots.keys()}
            for number, future in lost.items():
                del self._submitted[number]
                self._client.cancel(future)
                self._events.put(Report(number, Status.LOST, failure="all Dask workers that may run it are gone"))

    def _accept(self, address: str, slots: int) -> None:
        """Let a worker run steps."""
        with self._lock:
            self._slots[address] = slots
            waiting, self._waiting = self._waiting, []
        for task in waiting:
            self.submit(task)

    def _inspect(self, address: str, slots: int) -> None:
        """Compare a worker's host with this one."""
        if is_exposed(address):
            self._reject(address, f"it listens on the network without TLS. {USE_TLS}")
            return
        future = self._client.submit(
            host_facts_here, self._check.data, self._owner, key=f"inspection-{uuid.uuid4().hex}", pure=False,
            workers=[address], allow_other_workers=False,
        )  # fmt: skip
        self._inspections.append(future)
        future.add_done_callback(partial(self._judge, address, slots))

    def _judge(self, address: str, slots: int, future: Future[dict[str, str]]) -> None:
        """Accept or reject a worker whose host has been inspected; called by a thread of Dask's."""
        try:
            difference = self._check.differences(future.result(timeout=CONNECT_SECONDS))
            if difference:
                self._reject(address, difference)
            else:
                self._accept(address, slots)
        except Exception as error:  # whatever is wrong with it, other workers can run the steps
            if self._client.status == "running":
                self._reject(address, f"{type(error).__name__}: {error}")

    def _reject(self, address: str, reason: str) -> None:
        self._warn(f"worker {self._names.get(address, address)} at {address} gets no steps: {reason}")


def connect(address: str) -> Client:
    """Return a client of a scheduler. Certificates for TLS are in Dask's configuration.

    Raises:
        UserInputError: It does not answer.
    """
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a lost scheduler is reported here
    security = Security() if address.startswith("tls:") else None
    try:
        return Client(address, security=security, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TypeError, ValueError) as error:
        raise invalid("cluster", address, f"cannot be used: {error}.", remedy="See docs/scaling.md.") from None
