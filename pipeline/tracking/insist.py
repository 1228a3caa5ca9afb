"""Keeping an interrupted run KILLED: `python -m pipeline.tracking.insist RUN_ID`.

`mlflow run` marks the run of an interrupted command FAILED after the command has ended, whatever status the
command gave it (it means to leave a terminated run alone, but compares a number with a word). This small process
outlives both, and puts the right status back once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import mlflow
from mlflow import MlflowClient

LIMIT_SECONDS = 30.0
PAUSE_SECONDS = 0.3


def insist_on_killed(run_id: str) -> None:
    """Start the process for a run that has just been given the status KILLED."""
    subprocess.Popen(
        [sys.executable, "-m", "pipeline.tracking.insist", run_id],
        env={**os.environ, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()},  # a command line would show a password
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def main(run_id: str) -> None:
    """Wait for the status to be overwritten, and restore it."""
    client = MlflowClient()
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        info = client.get_run(run_id).info
        if info.status == "FAILED":
            client.set_terminated(run_id, "KILLED", info.end_time)
            return
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1])
