"""Shared fixtures: real data (or a skip), a tracking store per test, and no skips in CI."""

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

from pipeline.data.preprocessing import Preprocessing
from pipeline.data.records import Dataset
from pipeline.data.sources.registry import load_dataset
from pipeline.tracking.store import open_store
from tests.postgres import new_database, postgres

__all__ = ["new_database", "postgres"]  # fixtures defined in tests/postgres.py

ROOT = Path(__file__).resolve().parent.parent
settings.register_profile("any machine", deadline=None)  # busy machines are slow; pytest's timeout catches hangs
settings.load_profile("any machine")
MNIST_DIR = os.environ.get("PIPELINE_DATA_DIR", str(ROOT / "data"))


def preprocessing(channels: int = 1, height: int = 28, width: int = 28, **more: object) -> Preprocessing:
    """The preprocessing of images of this shape, by default that of MNIST."""
    return Preprocessing.model_validate({"size": (height, width), "channels": channels, **more})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need the real MNIST if it is not on disk."""
    if (Path(MNIST_DIR) / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        return
    for item in items:
        if "mnist" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="MNIST is not on disk: set PIPELINE_DATA_DIR"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turn skips into failures in CI: a test skipped there runs nowhere."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """Use one thread: results are the same on every machine, and parallel tests do not compete for cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store with its schema. Creating one takes seconds, copying it does not."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    open_store()
    mlflow.set_tracking_uri(before)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def copy_store(empty: Path, folder: Path) -> None:
    """Copy an empty store into a folder, as if it had been created there."""
    shutil.copyfile(empty, folder / "mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as connection:
        connection.execute("UPDATE experiments SET artifact_location = ?", (f"{folder}/mlruns/0",))


def use_stores(tracking: str, registry: str | None = None) -> None:
    """Point MLflow at these stores, and undo the registry URI that MLflow leaves in the environment."""
    mlflow.set_tracking_uri(tracking)
    mlflow.set_registry_uri(registry)
    if registry is None:
        os.environ.pop("MLFLOW_REGISTRY_URI", None)


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[mlflow.MlflowClient]:
    """An empty sqlite store in a temporary folder, which is also the working directory."""
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
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of its own, outside the test's temporary folder."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("PIPELINE_STATE_DIR", str(folder))
    return folder


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip a stage's figures if they are not under test: they take half of a small stage's time."""
    monkeypatch.setattr("pipeline.stages.training_result.log_figures", lambda *_: None)


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
    """Return a function that runs `python -m pipeline ...` in a folder and returns the completed process."""

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
    """Run `python -m pipeline ...` in a temporary folder with an empty store."""
    copy_store(empty_store, tmp_path)
    return command_in(tmp_path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the tracked and untracked source files, without stores, data or environments."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without variables that would point a child process to the user's store or data."""
    dropped = ("MLFLOW_", "PIPELINE_", "PYTEST_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    defaults = {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    # an MLflow server starts eight job processes that no test uses: 33 s of CPU time instead of 10
    return {**inherited, **defaults, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **more}


def on_another_machine(folder: Path, name: str) -> dict[str, str]:
    """Variables that make a child process see another host name and boot id, through a module in `folder`."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(
        f"import socket\nsocket.gethostname = lambda: {name!r}\n"
        f"import pipeline.runtime\npipeline.runtime.process_scope = lambda: {name!r}\n"
    )
    return {"PYTHONPATH": f"{folder}/site:{ROOT}"}


def error_lines(text: str) -> list[str]:
    """The lines of stderr, without what is logged about the data."""
    return [line for line in text.strip().splitlines() if not line.startswith(("data: ", "classes: "))]
