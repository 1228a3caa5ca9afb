"""A real `mlflow server` that can be killed and restarted on the same port and store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import clean_environment
from tests.ports import free_port, until_it_answers

BIN = Path(sys.executable).parent


class Server:
    """`mlflow server` with its own store and artifacts.

    Args:
        folder: Where both are stored.
        store: The URI of its store (default: sqlite in `folder`).
    """

    def __init__(self, folder: Path, store: str = ""):
        self.folder, self.port = folder, free_port()
        self.store = store or f"sqlite:///{folder}/mlflow.db"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """The server's URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it responds."""
        words = [str(BIN / "mlflow"), "server", "--backend-store-uri", self.store, "--artifacts-destination",
                 str(self.folder / "artifacts"), "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]  # fmt: skip
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                words, cwd=self.folder, env=clean_environment(PATH=f"{BIN}:{os.environ['PATH']}"),
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until_it_answers(self._process, f"{self.url}/health", self.log)

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)
            self._process = None

    def log(self) -> str:
        """Return the server's log."""
        return (self.folder / "server.log").read_text(errors="replace")
