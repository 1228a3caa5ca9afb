"""Runs that `mlflow run` made and whose command never began, for want of conda or uv say: MLflow leaves them RUNNING.

Such a run names no process. What can be known: whether a process of this machine was started for it, or whether an
`mlflow run` still lives that may be making an environment for it. A run that is closed while a script's
`mlflow.projects.run` still prepares it does no harm: the stage that takes it over sets it RUNNING again.
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
from pipeline.tracking.store import sqlite_path

PROJECT = Path(__file__).resolve().parent.parent.parent
ELSEWHERE_SECONDS = 86_400.0  # a server's run may be that of another machine, until it is this old


def unstarted_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    """Return the runs of an experiment that are RUNNING though no process of this machine will ever work on them."""
    wanted = "attributes.status = 'RUNNING' and tags.`mlflow.source.type` = 'PROJECT'"
    made = client.search_runs([experiment_id], wanted, max_results=1000)
    waiting = [run for run in made if _may_be_ours(run.data.tags)]
    if sqlite_path(mlflow.get_tracking_uri()) is None:
        old = (time.time() - ELSEWHERE_SECONDS) * 1000
        waiting = [run for run in waiting if run.info.start_time < old and _is_this_project(run.data.tags)]
    if not waiting:
        return []
    begun, preparing = _processes()
    return [
        run
        for run in waiting
        if run.info.run_id not in begun and not any(began * 1000 <= run.info.start_time for began in preparing)
    ]


def _may_be_ours(tags: dict[str, str]) -> bool:
    return (
        "process" not in tags
        and names.STAGE not in tags
        and tags.get(MLFLOW_USER) == getpass.getuser()
        and tags.get(MLFLOW_PROJECT_ENTRY_POINT) in ENTRY_POINTS
    )


def _is_this_project(tags: dict[str, str]) -> bool:
    """Whether a run's source is this folder: its path, or a repository's and the folder's place in it."""
    repository, _, place = tags.get(MLFLOW_SOURCE_NAME, "").removeprefix("file://").partition("#")
    return Path(repository) / place == PROJECT


def _processes() -> tuple[set[str], list[float]]:
    """Return the runs that live processes were started for, and when each `mlflow run` began that has not come so far.

    The times are in seconds since the epoch.
    """
    begun: dict[int, str] = {}
    launchers: dict[int, float] = {}
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if any(Path(word).name == "mlflow" and "run" in words[place:] for place, word in enumerate(words)):
                launchers[process.pid] = process.create_time()
            if run_id := process.environ().get("MLFLOW_RUN_ID"):
                begun[process.ppid()] = run_id
        except psutil.Error:  # it has ended, or is somebody else's
            continue
    return set(begun.values()), [began for pid, began in launchers.items() if pid not in begun]
