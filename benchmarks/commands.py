"""Commands as a user types them, in a folder of their own with a store of their own, timed from outside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SERVER_LIMIT_SECONDS = 90


@dataclass(frozen=True)
class Done:
    """A command that ended well.

    Attributes:
        seconds: Wall-clock from its start to its end.
        processor_seconds: Its processor time, and that of the processes it waited for.
        peak_bytes: Its peak resident set, or that of the largest process that it waited for.
        output: What it printed.
    """

    seconds: float
    processor_seconds: float
    peak_bytes: int
    output: str


@dataclass(frozen=True)
class Workplace:
    """A folder from which `mlflow run .` and `python -m pipeline` work, and what lies in it.

    Attributes:
        folder: Holds the project's files as links, and a store with its schema made.
        environment: In which nothing leads to the user's own store.
    """

    folder: Path
    environment: dict[str, str]

    def run(self, *words: str, **more: str) -> Done:
        """Run a command to its end.

        Raises:
            RuntimeError: It failed; carries what it printed.
        """
        record = self.folder / "record.json"
        launch = [sys.executable, "-m", "benchmarks.launcher", str(record), *words]
        environment = {**self.environment, **more}
        done = subprocess.run(launch, cwd=self.folder, env=environment, capture_output=True, text=True)
        code = done.returncode
        found: dict[str, float] = json.loads(record.read_text(encoding="utf-8")) if code == 0 else {}
        if code != 0 or found["code"] != 0:
            raise RuntimeError(f"{' '.join(words)} failed:\n{done.stdout}\n{done.stderr}")
        return Done(found["seconds"], found["processor_seconds"], int(found["peak_bytes"]), done.stdout)

    def python(self, *words: str, **more: str) -> Done:
        """Run this environment's Python."""
        return self.run(sys.executable, *words, **more)

    def metric(self, run_id: str, name: str) -> float:
        """Return the latest value of a metric of a run in the store."""
        with contextlib.closing(sqlite3.connect(self.folder / "mlflow.db", timeout=20)) as connection:
            query = "SELECT value FROM latest_metrics WHERE run_uuid = ? AND key = ?"
            ((value,),) = connection.execute(query, (run_id, name))
        return float(value)

    def fit_seconds(self, done: Done) -> float:
        """Return the seconds of training that the run of a stage's command has logged."""
        return self.metric(run_id_of(done.output), "time/fit_seconds")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Make this the process's working directory and environment, for stages that are called as functions."""
        before = os.getcwd(), dict(os.environ)
        os.chdir(self.folder)
        os.environ.update(self.environment)
        for name in set(os.environ) - set(self.environment):
            del os.environ[name]
        try:
            yield
        finally:
            os.chdir(before[0])
            os.environ.clear()
            os.environ.update(before[1])

    @contextlib.contextmanager
    def server(self) -> Iterator[str]:
        """Run a tracking server over the store, and yield its address."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
                 "--backend-store-uri", self.environment["MLFLOW_TRACKING_URI"]]  # fmt: skip
        log = (self.folder / "server.log").open("wb")
        with log, subprocess.Popen(words, cwd=self.folder, env=self.environment, stdout=log, stderr=log) as process:
            try:
                _wait_for(f"{address}/health", process)
                yield address
            finally:
                process.terminate()


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SERVER_LIMIT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"the tracking server did not answer within {SERVER_LIMIT_SECONDS} s")


@contextlib.contextmanager
def workplace() -> Iterator[Workplace]:
    """Make a folder to run commands in; it is removed afterwards."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text).resolve()
        for name in ("MLproject", "conda.yaml", "requirements.txt", "pipeline"):
            (folder / name).symlink_to(ROOT / name)
        place = Workplace(folder, clean_environment(folder))
        place.python("-m", "pipeline", "setup")
        yield place


def clean_environment(folder: Path) -> dict[str, str]:
    """Return the environment without what would lead to somebody's store; the data stay where they are."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PIPELINE_"))}
    data = os.path.abspath(os.environ.get("PIPELINE_DATA_DIR") or ROOT / "data")
    return {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PIPELINE_DATA_DIR": data,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def peer_python() -> str:
    """Return the Python of the peers' environment.

    Raises:
        RuntimeError: It is not installed.
    """
    python = ROOT / ".venv-bench" / "bin" / "python"
    if not python.exists():
        raise RuntimeError("the peers are not installed: make bench does that, into .venv-bench")
    return str(python)


def run_id_of(output: str) -> str:
    """Return the run id that a stage's last lines name."""
    found = re.findall(r"run ([0-9a-f]{32}), model", output)
    assert found, f"no run id in: {output}"
    return str(found[-1])


def stage_options(options: dict[str, object]) -> Sequence[str]:
    """Return options as words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]
