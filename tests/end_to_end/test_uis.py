"""Both UIs in a real browser, compared with the contents of the stores."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from playwright.sync_api import Page, expect

from tests.conftest import clean_environment
from tests.page_checks import chromium
from tests.ports import free_port, until_it_answers
from tests.postgres import PASSWORD

pytestmark = [pytest.mark.browser, pytest.mark.server, pytest.mark.slow]

WORDS = (
    "tune", "--dataset", "digits", "--classes", "0-2", "--folds", "3", "--trials", "4", "--fold_epochs", "3",
    "--workers", "2", "--width", "16", "--hidden_layers", "2", "--study", "seen", "--refit", "false",
)  # fmt: skip
PATIENCE_MS = 90_000  # the first page load of either fetches megabytes of scripts


@pytest.fixture
def page() -> Iterator[Page]:
    """A page in a headless browser at desktop size."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1600, "height": 1800})
        page.set_default_timeout(PATIENCE_MS)
        hosts: set[str | None] = set()
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        yield page
        assert hosts <= {None, "127.0.0.1"}  # None: data and blob URLs


@contextmanager
def uis(folder: Path, environment: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Start both UIs; yields their URLs, MLflow's first, once both respond."""
    ports = [free_port(), free_port()]
    words = ["ui", "--mlflow_port", str(ports[0]), "--dashboard_port", str(ports[1])]
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            for port in ports:
                until_it_answers(process, f"http://127.0.0.1:{port}/")
            assert_only_on_loopback(process.pid, ports)
            yield f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=40)
            assert process.returncode == 130 and PASSWORD not in out
            assert all(f"http://127.0.0.1:{port}" in out for port in ports)
            assert "/#/experiments/0/runs?workflowType=machine_learning&viewStateShareKey=pipeline" in out
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def assert_only_on_loopback(number: int, ports: list[int]) -> None:
    """Check that a command and its child processes listen on these ports, on the loopback interface only."""
    family = [psutil.Process(number), *psutil.Process(number).children(recursive=True)]
    connections = [connection for member in family for connection in member.net_connections("inet")]
    listening = {connection.laddr for connection in connections if connection.status == psutil.CONN_LISTEN}
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert {address.port for address in listening} >= set(ports)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_both_uis_show_trials_and_best_value(
    tmp_path: Path, page: Page, new_database: Callable[[], str], kind: str
) -> None:
    storage, tracking = f"sqlite:///{tmp_path}/optuna.db", f"sqlite:///{tmp_path}/mlflow.db"
    if kind == "postgresql":
        storage, tracking = new_database(), new_database()
    jobs = "true" if kind == "sqlite" else "false"  # true is the default: job processes are checked too
    environment = clean_environment(
        PIPELINE_STORAGE=storage, MLFLOW_TRACKING_URI=tracking, MLFLOW_SERVER_ENABLE_JOB_EXECUTION=jobs
    )
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *WORDS], cwd=tmp_path, env=environment, text=True,
        capture_output=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(study_name="seen", storage=storage)
    (run,) = MlflowClient(tracking).search_runs(["0"], "tags.stage = 'tune'")
    assert run.data.metrics["cv/accuracy"] == study.best_value
    with uis(tmp_path, environment) as (mlflow_address, dashboard_address):
        look_at_dashboard(page, f"{dashboard_address}/dashboard/studies/{study._study_id}", study, tmp_path)
        address = f"{mlflow_address}/#/experiments/0/runs/{run.info.run_id}"
        look_at_mlflow(page, address, run.data.metrics, tmp_path)


def look_at_dashboard(page: Page, address: str, study: optuna.Study, folder: Path) -> None:
    """Check the study's overview, trial list and note."""
    page.goto(address)
    best = page.locator("body")
    expect(best).to_contain_text(f"Best Trial (number={study.best_trial.number})", timeout=PATIENCE_MS)
    expect(best).to_contain_text(str(study.best_value))
    expect(best).to_contain_text("mean fold accuracy")
    page.screenshot(path=folder / "dashboard.png")
    page.goto(f"{address}/trials")
    expect(page.get_by_text(f"{len(study.trials)} Trials")).to_be_visible(timeout=PATIENCE_MS)
    page.screenshot(path=folder / "dashboard-trials.png")
    page.goto(f"{address}/note")
    expect(page.get_by_text("A trial's value is its mean accuracy")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_text("dataset: digits")).to_be_visible()
    page.screenshot(path=folder / "dashboard-note.png")


def look_at_mlflow(page: Page, address: str, metrics: dict[str, float], folder: Path) -> None:
    """Check the run page: description, metrics, and a nested run per trial."""
    page.goto(address)
    expect(page.get_by_text("Study seen: 4 trials, 3 folds, digits 0-2.")).to_be_visible(timeout=PATIENCE_MS)
    shown = {}
    for name in ("cv/accuracy", "study/complete", "study/pruned"):
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
        shown[name] = float(row.inner_text().split()[1])
    assert shown == pytest.approx({name: metrics[name] for name in shown})
    assert shown["study/complete"] + shown["study/pruned"] == 4
    expect(page.get_by_role("link", name=re.compile(r"^trial \d"))).to_have_count(4)
    page.screenshot(path=folder / "mlflow.png")
