"""A Dask cluster of real processes on loopback: a scheduler, and workers that act as hosts of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import clean_environment
from tests.faults.killing import wait_until

DASK = (sys.executable, "-m", "dask")
LOOPBACK = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")
Process = subprocess.Popen[str]


@dataclass
class Cluster:
    """A scheduler and its workers.

    Attributes:
        folder: Working folder of all of them.
        scheduler: The scheduler's process.
        workers: Processes of the workers, by name.
    """

    folder: Path
    scheduler: Process
    workers: dict[str, Process] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The scheduler file."""
        return self.folder / "scheduler.json"

    @property
    def address(self) -> str:
        """The address of the scheduler."""
        return str(json.loads(self.file.read_text())["address"])

    def add_worker(self, name: str, *words: str, **environment: str) -> Process:
        """Start a worker, which runs one step at a time."""
        command = ("worker", self.address, "--name", name, "--nthreads", "1", *LOOPBACK, *words)
        self.workers[name] = started(self.folder, f"{name}.log", *command, **environment)
        return self.workers[name]


@contextmanager
def cluster_in(folder: Path) -> Iterator[Cluster]:
    """A cluster without workers, killed on exit with all workers that have been added."""
    command = ("scheduler", "--port", "0", *LOOPBACK, "--scheduler-file")
    cluster = Cluster(folder, started(folder, "scheduler.log", *command, str(folder / "scheduler.json")))
    try:
        wait_until(lambda: is_written(cluster.file), lambda: cluster.scheduler.poll() is None)
        yield cluster
    finally:
        for process in (*cluster.workers.values(), cluster.scheduler):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def is_written(file: Path) -> bool:
    """Whether a scheduler file is complete."""
    return file.is_file() and file.read_text().rstrip().endswith("}")


def started(folder: Path, log: str, *words: str, **environment: str) -> Process:
    """Start a Dask process."""
    with (folder / log).open("a") as file:
        return subprocess.Popen(
            [*DASK, *words], cwd=folder, env=clean_environment(**environment), text=True, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
