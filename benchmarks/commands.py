"""Run and time commands as a user would, in a temporary folder with its own tracking store."""

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
class CommandResult:
    """Measurements of a successful command, child processes included.

    Attributes:
        seconds: Wall-clock time.
        cpu_seconds: CPU time.
        peak_bytes: Peak resident set size of its largest process.
        output: Its stdout.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str


@dataclass(frozen=True)
class Workplace:
    """A folder in which `mlflow run .` and `python -m pipeline` work.

    Attributes:
        folder: Links to the project's files, and a tracking store with its schema.
        environment: Environment variables, without any that point to the user's own store.
    """

    folder: Path
    environment: dict[str, str]

    def run(self, *words: str, **variables: str) -> CommandResult:
        """Run a command with additional environment variables.

        Raises:
            RuntimeError: The command failed; contains its output.
        """
        record = self.folder / "record.json"
        launch = [sys.executable, "-m", "benchmarks.launcher", str(record), *words]
        environment = {**self.environment, **variables}
        process = subprocess.run(launch, cwd=self.folder, env=environment, capture_output=True, text=True)
        code = process.returncode
        usage: dict[str, float] = json.loads(record.read_text(encoding="utf-8")) if code == 0 else {}
        if code != 0 or usage["code"] != 0:
            raise RuntimeError(f"{' '.join(words)} failed:\n{process.stdout}\n{process.stderr}")
        return CommandResult(usage["seconds"], usage["cpu_seconds"], int(usage["peak_bytes"]), process.stdout)

    def python(self, *words: str, **variables: str) -> CommandResult:
        """Run this environment's Python."""
        return self.run(sys.executable, *words, **variables)

    def metric(self, run_id: str, name: str) -> float:
        """Return the latest value of a run's metric."""
        with contextlib.closing(sqlite3.connect(self.folder / "mlflow.db", timeout=20)) as connection:
            query = "SELECT value FROM latest_metrics WHERE run_uuid = ? AND key = ?"
            ((value,),) = connection.execute(query, (run_id, name))
        return float(value)

    def fit_seconds(self, result: CommandResult) -> float:
        """Return the training seconds logged by a stage's command."""
        return self.metric(run_id_of(result.output), "time/fit_seconds")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Use the folder and environment in this process, to call stages as functions."""
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
        """Run a tracking server on the store, and yield its URL."""
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
            with urllib.request.urlopen(address, timeout=2) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"the tracking server did not respond within {SERVER_LIMIT_SECONDS} s")


@contextlib.contextmanager
def workplace() -> Iterator[Workplace]:
    """Create a temporary folder to run commands in."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text).resolve()
        for name in ("MLproject", "conda.yaml", "requirements.txt", "pipeline"):
            (folder / name).symlink_to(ROOT / name)
        place = Workplace(folder, clean_environment(folder))
        place.python("-m", "pipeline", "setup")
        yield place


def clean_environment(folder: Path) -> dict[str, str]:
    """Return the environment without MLflow and pipeline variables, except for the data folder."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PIPELINE_"))}
    data = os.path.abspath(os.environ.get("PIPELINE_DATA_DIR") or ROOT / "data")
    return {
        **inherited,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PIPELINE_DATA_DIR": data,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def peer_python() -> str:
    """Return the Python that has the other tools installed; RuntimeError if there is none."""
    python = ROOT / ".venv-bench" / "bin" / "python"
    if not python.exists():
        raise RuntimeError("the other tools are not installed; run make bench to install them into .venv-bench")
    return str(python)


def run_id_of(output: str) -> str:
    """Return the run id in a stage's output."""
    run_ids = re.findall(r"run ([0-9a-f]{32}), model", output)
    assert run_ids, f"no run id in: {output}"
    return str(run_ids[-1])


def stage_options(options: dict[str, object]) -> Sequence[str]:
    """Return options as command-line arguments."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]
