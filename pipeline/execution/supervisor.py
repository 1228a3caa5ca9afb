"""Starts one worker process and runs steps in it, one after another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from pipeline.execution.budget import CoreBudget
from pipeline.execution.channel import Channel
from pipeline.execution.records import Output, Report, Status, Task

LOG_VARIABLE = "PIPELINE_WORKER_LOG"  # path of a worker's own log


class Supervisor:
    """A worker process, started when it is first needed and again after it was killed."""

    def __init__(self, budget: CoreBudget, environment: Mapping[str, str], log: Path):
        self._budget, self._environment, self._log = budget, environment, log
        self._process: subprocess.Popen[str] | None = None
        self._channel: Channel | None = None
        self._cores = 0  # lent to the running step

    def run(self, task: Task, show: Callable[[Output], None]) -> Report:
        """Run a step and return its report; `show` receives its output. Called by one thread at a time."""
        self._cores = self._budget.take(1)
        if not self._cores:
            return Report(task.number, Status.LOST, failure="its plan was interrupted")
        try:
            return self._run(task, show)
        finally:
            self._budget.give_back(self._cores)

    def _run(self, task: Task, show: Callable[[Output], None]) -> Report:
        channel = self._started()
        channel.send({"task": asdict(task)})
        while (message := channel.receive()) is not None:
            if "output" in message:
                show(Output(**message["output"]))
            elif "cores" in message:
                self._exchange(message["cores"] or self._budget.cores)
                channel.send({"granted": self._cores})
            else:
                return Report(**{**message["report"], "status": Status(message["report"]["status"])})
        assert self._process is not None
        return Report(task.number, Status.LOST, failure=describe_exit(self._process.wait()))

    def facts(self, data: list[dict[str, str]]) -> dict[str, str]:
        """Return what the worker process knows of its host (see `stages.host_facts`); empty if it was killed."""
        channel = self._started()
        channel.send({"facts": data})
        message = channel.receive()
        return message["facts"] if message is not None else {}

    def _exchange(self, count: int) -> None:
        """Release the core for preparing a step, and take those for running it."""
        self._budget.give_back(self._cores)
        self._cores = 0
        self._cores = self._budget.take(count)

    def _started(self) -> Channel:
        """Return the channel of a live worker process."""
        if self._channel is None or self._process is None or self._process.poll() is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "pipeline.execution.worker"],
                    env={
                        **self._environment,
                        LOG_VARIABLE: str(self._log.absolute()),
                        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                    },
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            assert self._process.stdin is not None and self._process.stdout is not None
            self._channel = Channel(self._process.stdout, self._process.stdin)
        return self._channel

    def interrupt(self) -> None:
        """Ask the worker process to save a checkpoint and exit."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self, limit_seconds: float) -> None:
        """Wait until the worker process has exited; kill it when time is up."""
        if self._process is None or self._channel is None:
            return
        self._channel.close()
        try:
            self._process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def describe_exit(code: int) -> str:
    """Return why a worker process ended."""
    reason = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
    return f"its worker process {reason}" + (" (out of memory?)" if code == -9 else "")
