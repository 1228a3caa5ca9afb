"""MLflow's UI and the Optuna dashboard, together, on this machine only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline.console import say
from pipeline.errors import Fault, UserInputError

HOST = "127.0.0.1"
DEFAULT_STORAGE = "sqlite:///optuna.db"


def serve_uis(mlflow_port: int, dashboard_port: int) -> None:
    """Start both, print their addresses, and wait; whatever ends one ends the other.

    Raises:
        UserInputError: One of them ended by itself, most often because its port is taken.
    """
    tools = Path(sys.executable).parent
    storage = os.environ.get("PIPELINE_STORAGE") or DEFAULT_STORAGE
    commands = {
        "MLflow": ([str(tools / "mlflow"), "ui", "--host", HOST, "--port", str(mlflow_port)], mlflow_port),
        "Optuna dashboard": (
            [str(tools / "optuna-dashboard"), storage, "--host", HOST, "--port", str(dashboard_port)],
            dashboard_port,
        ),
    }
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, (command, port) in commands.items():
            processes[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            say(f"{name}: http://{HOST}:{port}")
        say("Ctrl-C stops both")
        while all(process.poll() is None for process in processes.values()):
            time.sleep(0.5)
        ended = next(name for name, process in processes.items() if process.poll() is not None)
        port = commands[ended][1]
        raise UserInputError(
            Fault("port", port, f"{ended} ended by itself; its own words stand above.", "Choose another port.")
        )
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait(20)
