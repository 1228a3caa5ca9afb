"""What tests share: real data found or skipped, a store of their own, and no skip in CI."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
import torch
from hypothesis import settings

from pipeline.data.records import Dataset
from pipeline.data.sources.registry import load_dataset
from pipeline.tracking.store import open_store
from tests.postgres import new_database, postgres

__all__ = ["new_database", "postgres"]  # fixtures that live in a room of their own

ROOT = Path(__file__).resolve().parent.parent
settings.register_profile("any machine", deadline=None)  # a busy one is slow; what hangs meets pytest's own limit
settings.load_profile("any machine")
MNIST_DIR = os.environ.get("PIPELINE_DATA_DIR", str(ROOT / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the real MNIST where it is not on disk."""
    if (Path(MNIST_DIR) / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        return
    for item in items:
        if "mnist" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="MNIST is not on disk: set PIPELINE_DATA_DIR"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI a skip is a failure: what is not run there is not run anywhere."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """One thread: tests then give the same figures wherever they run, and do not fight over cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its schema and nothing in it; making one takes seconds, copying it does not."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    open_store()
    mlflow.set_tracking_uri(before)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def copy_store(empty: Path, folder: Path) -> None:
    """Put an empty store into a folder, as if it had been made there."""
    shutil.copyfile(empty, folder / "mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", (f"{folder}/mlruns/0",))


def use_stores(tracking: str, registry: str | None = None) -> None:
    """Have MLflow use these stores; it leaves the registry's in the environment for ever otherwise."""
    mlflow.set_tracking_uri(tracking)
    mlflow.set_registry_uri(registry)
    if registry is None:
        os.environ.pop("MLFLOW_REGISTRY_URI", None)


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mlflow.MlflowClient]:
    """A fresh sqlite store in a folder of its own, which is also the working directory."""
    monkeypatch.chdir(tmp_path)
    copy_store(empty_store, tmp_path)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "PIPELINE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = mlflow.get_tracking_uri()
    use_stores(uri, uri)
    yield mlflow.MlflowClient(uri)
    use_stores(before)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out a stage's figures where they are not what is tested: they take half of a small stage's time."""
    monkeypatch.setattr("pipeline.stages.training_run.log_figures", lambda *_: None)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The bundled digits."""
    return load_dataset("digits", "data")


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    """The real MNIST."""
    return load_dataset("mnist", MNIST_DIR)


Command = Callable[..., "subprocess.CompletedProcess[str]"]


def command_in(folder: Path) -> Command:
    """Runs `python -m pipeline ...` in a folder, as a user would, and returns the finished process."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *words],
            cwd=folder,
            env=clean_environment(**environment),
            text=True,
            capture_output=True,
            timeout=200,
        )

    return run


@pytest.fixture
def command(tmp_path: Path, empty_store: Path) -> Command:
    """Runs `python -m pipeline ...` in a folder of its own, with an empty store."""
    copy_store(empty_store, tmp_path)
    return command_in(tmp_path)


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without what would lead a child process to somebody's store or data."""
    dropped = ("MLFLOW_", "PIPELINE_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    own = {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    # an MLflow server starts eight processes for jobs that nothing here uses: 33 s of processor time instead of 10
    return {**kept, **own, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **more}


def on_another_machine(folder: Path, name: str) -> dict[str, str]:
    """The variables with which a child process sees another host name and another boot; written into a folder."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(
        f"import socket\nsocket.gethostname = lambda: {name!r}\n"
        f"import pipeline.runtime\npipeline.runtime.process_scope = lambda: {name!r}\n"
    )
    return {"PYTHONPATH": f"{folder}/site:{ROOT}"}
