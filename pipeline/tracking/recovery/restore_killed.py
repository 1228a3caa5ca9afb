"""Restore the status KILLED of an interrupted `mlflow run`, from a separate process.

    python -m pipeline.tracking.recovery.restore_killed RUN_ID [NOTE]

After an interrupted command exits, `mlflow run` marks its run FAILED whatever its status (a bug: it compares a number
with a string). This process outlives both and restores the status once. It is also used if a command is interrupted
during its imports, so nothing heavy is imported at module level.
"""  # fmt: skip

import os
import subprocess
import sys
import time

LIMIT_SECONDS = 30.0
PAUSE_SECONDS = 0.3
EXIT_INTERRUPTED = 130


def restore_killed_status(run_id: str, tracking_uri: str, note: str = "") -> None:
    """Start the process for a run; with a note, the process first ends the run with it.

    The tracking URI is passed in the environment because a command line would expose a password.
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
    """End the run created by `mlflow run` as KILLED, in another process because imports may be incomplete here."""
    if run_id := os.environ.pop("MLFLOW_RUN_ID", None):
        uri = os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
        restore_killed_status(run_id, uri, "Interrupted before it started.")


def main(run_id: str, note: str = "") -> None:
    """End the run as KILLED if there is a note; then wait until it is marked FAILED and restore KILLED."""
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
        except MlflowException:  # the store is unreachable, and there is nowhere to report it
            pass
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:3])
