"""Concurrent stages on one store: all finish, nothing is lost, and no writer locks out another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import clean_environment
from tests.faults.killing import assert_one_ready_model, points_of, runs_of
from tests.serving import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
WRITERS, EPOCHS = 8, 20
WORDS = ("train_base", "--dataset", "digits", "--epochs", str(EPOCHS), "--width", "16", "--patience", "1000",
         "--threads", "1", "--register_as", "shared")  # fmt: skip


def train_concurrently(folder: Path, **environment: str) -> str:
    """Run eight stages with different seeds in one folder; return their output."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "pipeline", *WORDS, "--seed", str(seed)], cwd=folder, text=True,
            env=clean_environment(**environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for seed in range(WRITERS)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * WRITERS, outputs
    synced = subprocess.run(  # on a busy machine some data may still be pending
        [sys.executable, "-m", "pipeline", "sync"], cwd=folder, text=True, env=clean_environment(**environment),
        capture_output=True, timeout=200,
    )  # fmt: skip
    assert synced.returncode == 0, synced.stdout + synced.stderr
    return "".join(outputs)


def assert_nothing_is_lost(client: MlflowClient, folder: Path, output: str) -> None:
    """Check eight finished runs with all points, parameters, files and models, and one model version each."""
    runs = runs_of(client)
    assert sorted(run.data.params["seed"] for run in runs) == [str(seed) for seed in range(WRITERS)]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert {len(points) for points in points_of(client, run.info.run_id).values()} == {1, EPOCHS}
        assert len(client.get_run(run.info.run_id).inputs.dataset_inputs) == 3
        assert {item.path for item in client.list_artifacts(run.info.run_id)} == {
            "checkpoints",
            "classes.csv",
            "figures",
            "history.csv",
            "test_predictions.csv",
        }
        assert_one_ready_model(client, run.info.run_id)
    versions = client.search_model_versions("name = 'shared'")
    assert sorted(version.run_id for version in versions) == sorted(run.info.run_id for run in runs)
    best = client.get_model_version_by_alias("shared", "best")
    accuracies = {run.info.run_id: run.data.metrics["val/final_accuracy"] for run in runs}
    assert accuracies[best.run_id] == max(accuracies.values()) > min(accuracies.values())
    late = output.count("some data is not uploaded yet")
    assert output.count("all data uploaded") == WRITERS - late, output
    assert "locked" not in output and "Traceback" not in output and output.count("warning: some data") == late, output
    assert list((folder / ".pipeline" / "runs").iterdir()) == []


def test_eight_concurrent_stages_lose_nothing_on_new_sqlite_store(tmp_path: Path) -> None:
    output = train_concurrently(tmp_path)
    assert_nothing_is_lost(MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), tmp_path, output)


def test_eight_concurrent_stages_lose_nothing_on_new_postgresql_store(
    tmp_path: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = new_database()
    output = train_concurrently(tmp_path, MLFLOW_TRACKING_URI=uri)
    monkeypatch.chdir(tmp_path)  # artifacts are stored relative to the working directory
    assert_nothing_is_lost(MlflowClient(uri), tmp_path, output)


@pytest.mark.server
def test_eight_concurrent_stages_lose_nothing_through_a_server(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder)
    try:
        output = train_concurrently(tmp_path, MLFLOW_TRACKING_URI=server.url)
        assert_nothing_is_lost(MlflowClient(server.url), tmp_path, output)
        assert "locked" not in server.log()
    finally:
        server.kill()
