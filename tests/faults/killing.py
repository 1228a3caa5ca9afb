"""Run stages in real processes, kill them, and inspect the store afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking.outbox.journal import JOURNAL, read_part
from tests.conftest import clean_environment

# a few seconds of work, in epochs short enough to be killed between and within them
TINY = ("--dataset", "digits", "--width", "16", "--hidden_layers", "2", "--batch_size", "32", "--threads", "1",
        "--checkpoint_every", "4", "--patience", "1000")  # fmt: skip

Points = dict[str, list[tuple[int, float]]]


@contextmanager
def stage(folder: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A running `python -m pipeline ...`, killed on exit if it is still running."""
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words], cwd=folder, env=clean_environment(**environment), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def kill_when(folder: Path, ready: Callable[[], bool], *words: str, **environment: str) -> str:
    """Run a stage, SIGKILL it as soon as `ready()` is true, and return its output."""
    with stage(folder, *words, **environment) as process:
        wait_until(ready, lambda: process.poll() is None)
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate(timeout=30)
    return str(out)


def wait_until(ready: Callable[[], bool], alive: Callable[[], bool] = lambda: True, seconds: float = 90) -> None:
    """Wait until `ready()` is true.

    Raises:
        AssertionError: On timeout, or if `alive()` becomes false first.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        assert alive() and time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.002)


def store_of(folder: Path) -> MlflowClient:
    """A client for the default store in a folder."""
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def runs_of(client: MlflowClient) -> list[Run]:
    """All runs in a store, oldest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, order_by=["attributes.start_time ASC"]))


def journaled_epochs(folder: Path) -> int:
    """The number of epochs in a folder's newest journal."""
    journals = sorted(folder.glob(f".pipeline/runs/*/{JOURNAL}"), key=lambda path: path.stat().st_mtime)
    entries = read_part(journals[-1]).entries if journals else []
    return max([point[3] for entry in entries for point in entry.get("metrics", [])], default=0)


def local_state(folder: Path, run_id: str) -> Path:
    """The folder of a run's local state."""
    return folder / ".pipeline" / "runs" / run_id


def points_of(client: MlflowClient, run_id: str) -> Points:
    """Every point of every metric of a run except `time/*`, as (step, value) sorted by step.

    Raises:
        AssertionError: If a step is missing or duplicated in any metric.
    """
    points: Points = {}
    for name in client.get_run(run_id).data.metrics:
        history = sorted((int(point.step), float(point.value)) for point in client.get_metric_history(run_id, name))
        steps = [step for step, _ in history]
        assert steps == ([0] if steps == [0] else list(range(1, len(steps) + 1))), (name, steps)
        if not name.startswith("time/"):
            points[name] = history
    assert len({len(history) for history in points.values() if len(history) > 1}) <= 1
    return points


def result_of(client: MlflowClient, run_id: str) -> tuple[str, Points, dict[str, str]]:
    """What must be identical in two runs: weights, logged metrics, parameters."""
    run = client.get_run(run_id)
    return run.data.tags["weights_digest"], points_of(client, run_id), dict(run.data.params)


def assert_one_ready_model(client: MlflowClient, run_id: str) -> None:
    """Check that the run has one READY model, with its final metrics, as its only output."""
    run = client.get_run(run_id)
    models = list(client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'"))
    assert [str(model.status) for model in models] == ["READY"]
    assert run.data.tags["model_uri"] == f"models:/{models[0].model_id}"
    assert run.outputs is not None and [item.model_id for item in run.outputs.model_outputs] == [models[0].model_id]
    logged = {metric.key: metric.value for metric in models[0].metrics}
    assert logged["test/accuracy"] == run.data.metrics["test/accuracy"]
