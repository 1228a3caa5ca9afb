"""RUNNING runs of an `mlflow run` that exited before its command started, for example because conda or uv is missing.

Such a run has no process tag, so the live processes of this machine are searched: one that was started for the run, or
an `mlflow run` that may still be preparing its environment. Closing a run that a script's `mlflow.projects.run` is
still preparing is harmless: the stage that adopts it sets it to RUNNING again.
"""

from __future__ import annotations

import getpass
import time
from pathlib import Path

import mlflow
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_ENTRY_POINT, MLFLOW_SOURCE_NAME, MLFLOW_USER

from pipeline.params import ENTRY_POINTS
from pipeline.tracking import names
from pipeline.tracking.store import search_running, sqlite_path

PROJECT = Path(__file__).resolve().parents[3]
MIN_AGE_SECONDS = 86_400.0  # on a server: a younger run may be in preparation on another machine


def unstarted_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    """Return the RUNNING runs of an experiment whose command never started on this machine."""
    runs = search_running(client, experiment_id, "tags.`mlflow.source.type` = 'PROJECT'")
    candidates = [run for run in runs if _may_be_unstarted(run.data.tags)]
    if sqlite_path(mlflow.get_tracking_uri()) is None:
        latest = (time.time() - MIN_AGE_SECONDS) * 1000
        candidates = [run for run in candidates if run.info.start_time < latest and _is_this_project(run.data.tags)]
    if not candidates:
        return []
    started, preparing = _live_processes()
    return [
        run
        for run in candidates
        if run.info.run_id not in started and not any(began * 1000 <= run.info.start_time for began in preparing)
    ]


def _may_be_unstarted(tags: dict[str, str]) -> bool:
    return (
        "process" not in tags
        and names.STAGE not in tags
        and tags.get(MLFLOW_USER) == getpass.getuser()
        and tags.get(MLFLOW_PROJECT_ENTRY_POINT) in ENTRY_POINTS
    )


def _is_this_project(tags: dict[str, str]) -> bool:
    """Return whether a run's source is this folder: its path, or a repository with a subdirectory after #."""
    repository, _, subdirectory = tags.get(MLFLOW_SOURCE_NAME, "").removeprefix("file://").partition("#")
    return Path(repository) / subdirectory == PROJECT


def _live_processes() -> tuple[set[str], list[float]]:
    """Return the ids of runs with a live process, and the start time of each `mlflow run` that has started none yet."""
    started: dict[int, str] = {}  # parent process -> run id
    launchers: dict[int, float] = {}
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if any(Path(word).name == "mlflow" and "run" in words[index:] for index, word in enumerate(words)):
                launchers[process.pid] = process.create_time()
            if run_id := process.environ().get("MLFLOW_RUN_ID"):
                started[process.ppid()] = run_id
        except psutil.Error:  # it has exited, or belongs to another user
            continue
    return set(started.values()), [start for pid, start in launchers.items() if pid not in started]
