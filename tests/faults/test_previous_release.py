"""What the previous release left can be uploaded and reported on; its runs and models are rejected with a remedy.

`tests/data/make_previous_release.py` has generated the archive.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import ROOT, clean_environment
from tests.data.make_previous_release import edit_journal
from tests.faults.killing import assert_one_ready_model

pytestmark = pytest.mark.slow

ARCHIVE = ROOT / "tests" / "data" / "previous_release.tar.xz"
EPOCHS = 60


@pytest.fixture
def ids(tmp_path: Path) -> dict[str, str]:
    """Unpacks the archive and returns the ids of its runs: `plan`, `killed`, `pending`."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.executescript((tmp_path / "mlflow.sql").read_text().replace("@FOLDER@", str(tmp_path)))
    (tmp_path / "state").rename(tmp_path / ".pipeline")
    for folder in (tmp_path / ".pipeline" / "runs").iterdir():
        edit_journal(folder, lambda text: text.replace("@FOLDER@", str(tmp_path)))
    found: dict[str, str] = json.loads((tmp_path / "ids.json").read_text())
    return found


@pytest.fixture
def pipeline(tmp_path: Path) -> Callable[..., str]:
    """Runs `python -m pipeline ...` in the folder, checks its exit code and returns what it printed."""

    def run(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *words],
            cwd=tmp_path, env=clean_environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=200,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return str(done.stdout)

    return run


def steps(client: MlflowClient, run_id: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, "val/loss")]


def test_pending_run_is_uploaded_by_sync(tmp_path: Path, ids: dict[str, str], pipeline: Callable[..., str]) -> None:
    printed = pipeline("sync")
    assert f"run {ids['pending']}: uploaded" in printed and "rejected" not in printed
    assert not (tmp_path / ".pipeline" / "runs" / ids["pending"]).exists()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_run(ids["pending"]).info.status == "FINISHED"
    assert steps(client, ids["pending"]) == list(range(1, EPOCHS + 1))
    assert_one_ready_model(client, ids["pending"])


def test_killed_run_is_not_resumed(ids: dict[str, str], pipeline: Callable[..., str]) -> None:
    """Its images were drawn by position."""
    printed = pipeline("resume", "--run_id", ids["killed"], code=2)
    assert (
        "started by an earlier release, which sampled images by position. Run it again: python -m pipeline" in printed
    )


def test_model_is_rejected_as_a_base(ids: dict[str, str], pipeline: Callable[..., str]) -> None:
    pipeline("sync")
    printed = pipeline("transfer", "--base", ids["pending"], "--dry_run", "true", code=2)
    assert "trained by an earlier release" in printed and "Train it again, or choose another base" in printed


def test_plan_run_is_reported(tmp_path: Path, ids: dict[str, str], pipeline: Callable[..., str]) -> None:
    pipeline("report", "--runs", ids["plan"])
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (report,) = client.search_runs(["0"], "tags.stage = 'report' and attributes.status = 'FINISHED'")
    files = {Path(item.path).name for item in client.list_artifacts(report.info.run_id, "report")}
    assert {"study.html", "study.md"} <= files
    page = client.download_artifacts(report.info.run_id, "report/study.html", str(tmp_path))
    assert "Does fine-tuning beat training from scratch?" in Path(page).read_text()
