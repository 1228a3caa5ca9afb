"""Ending an interrupted run as KILLED from a process of its own: `python -m pipeline.tracking.recovery.restore_killed RUN_ID [NOTE]`.

`mlflow run` marks the run of an interrupted command FAILED after the command has ended, whatever status the
command gave it (it means to leave a terminated run alone, but compares a number with a word). This small process
outlives both, and puts the right status back once. It also serves a command that was interrupted in the middle of
its imports, after which these cannot be used any more; so nothing heavy is imported here by whoever starts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

LIMIT_SECONDS = 30.0
PAUSE_SECONDS = 0.3
EXIT_INTERRUPTED = 130


def restore_killed_status(run_id: str, tracking_uri: str, note: str = "") -> None:
    """Start the process for a run; with a note, it first ends the run itself.

    Args:
        run_id: The run that `mlflow run` made.
        tracking_uri: Of its store; travels by the environment, since a command line would show a password.
        note: What the run's note shall say.
    """
    subprocess.Popen(
        [sys.executable, "-m", "pipeline.tracking.recovery.restore_killed", run_id, *([note] if note else [])],
        env={**os.environ, "MLFLOW_TRACKING_URI": tracking_uri},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def mark_adopted_run_killed() -> None:
    """Have another process end the run that `mlflow run` made as KILLED: our imports may have been interrupted."""
    if run_id := os.environ.pop("MLFLOW_RUN_ID", None):
        uri = os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
        restore_killed_status(run_id, uri, "Interrupted before it began.")


def main(run_id: str, note: str = "") -> None:
    """Give the status, where there is a note; then wait for it to be overwritten, and restore it."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient()
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        try:
            if note:
                client.set_tag(run_id, "mlflow.note.content", note)
                client.set_terminated(run_id, "KILLED")
                note = ""
            info = client.get_run(run_id).info
            if info.status == "FAILED":
                client.set_terminated(run_id, "KILLED", info.end_time)
                return
        except MlflowException:  # the store does not answer now; nobody is left who could be told
            pass
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:3])
