"""MLflow's UI and the Optuna dashboard, on loopback only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline.console import echo
from pipeline.errors import Fault, UserInputError
from pipeline.redaction import without_password
from pipeline.tuning.study import storage_url

HOST = "127.0.0.1"
STOP_SECONDS = 10
# the storage URL may hold a password: passed by environment, because any user can read a command line
DASHBOARD = (
    "import os, sys, optuna_dashboard; "
    "optuna_dashboard.run_server(os.environ['PIPELINE_STORAGE'], host=sys.argv[1], port=int(sys.argv[2]))"
)


def serve_uis(tracking_uri: str, mlflow_port: int, dashboard_port: int, *, page: str) -> None:
    """Start both, print their addresses and wait; when one exits, stop the other.

    `page` is the part of MLflow's address after the server.

    If the tracking store is a server, its address is printed and no MLflow UI is started.

    Raises:
        UserInputError: One of them exited by itself, most often because its port is in use.
    """
    mlflow = str(Path(sys.executable).parent / "mlflow")
    commands = {
        "MLflow": ([mlflow, "ui", "--host", HOST, "--port", str(mlflow_port)], mlflow_port),
        "Optuna dashboard": ([sys.executable, "-c", DASHBOARD, HOST, str(dashboard_port)], dashboard_port),
    }
    if tracking_uri.startswith(("http://", "https://")):
        del commands["MLflow"]
        echo(f"MLflow: {without_password(tracking_uri).rstrip('/')}{page}")
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nothing here needs its job processes, which take 1.8 GB
        **os.environ,
        "PIPELINE_STORAGE": storage_url(),
        "MLFLOW_BACKEND_STORE_URI": tracking_uri,
    }
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, (command, port) in commands.items():
            processes[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
            echo(f"{name}: http://{HOST}:{port}{page if name == 'MLflow' else ''}")
        echo("Ctrl-C stops " + " and ".join(processes))
        while all(process.poll() is None for process in processes.values()):
            time.sleep(0.5)
        ended = next(name for name, process in processes.items() if process.poll() is not None)
        port = commands[ended][1]
        raise UserInputError(Fault("port", port, f"{ended} exited; its output is above.", "Choose another port."))
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
