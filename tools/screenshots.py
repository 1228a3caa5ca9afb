"""Take the screenshots of docs/comparing-runs.md: `python -m tools.screenshots FOLDER`.

FOLDER is where a study was carried out (`mlflow.db` and `optuna.db` lie there). Both UIs are started on loopback,
looked at in headless Chromium, and stopped. Needs the dev requirements and Debian's chromium.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import click
import optuna
from mlflow import MlflowClient
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
START_SECONDS, DRAWN_MS = 120, 15_000  # megabytes of scripts, and pages that go on asking
CLICKED_MS = 3_000
SIZE = {"width": 1500, "height": 950}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


@contextmanager
def uis(folder: Path) -> Iterator[tuple[str, str]]:
    """Start both UIs on a folder's stores and give their addresses, MLflow's first."""
    ports = free_port(), free_port()
    words = [sys.executable, "-m", "pipeline", "ui", "--mlflow_port", str(ports[0]), "--dashboard_port", str(ports[1])]
    environment = {**os.environ, "PYTHONPATH": str(IMAGES.parent.parent)}
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not all(answers(port) for port in ports):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the UIs did not start")
                time.sleep(0.5)
            yield f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
        finally:
            process.send_signal(signal.SIGINT)


def answers(port: int) -> bool:
    """Whether something serves HTTP on a port."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
    except OSError:
        return False
    return True


def take(page: Page, address: str, name: str, *, expanded: bool = False) -> None:
    """Open an address, wait until it is drawn, and keep a picture of it."""
    page.goto(address)
    page.wait_for_timeout(DRAWN_MS)
    assistant = page.get_by_role("button", name="Close")
    if assistant.count():
        assistant.last.click()
    if expanded:
        page.locator("[role='gridcell'] button").first.click()  # the study's row, in which its steps are nested
    page.wait_for_timeout(CLICKED_MS)
    page.screenshot(path=IMAGES / f"{name}.png")
    click.echo(IMAGES / f"{name}.png")


def look_at_mlflow(page: Page, address: str, client: MlflowClient) -> None:
    """Take the table of a study's arms, the comparison of some of them, and their curves."""
    arms = client.search_runs(
        ["0"], "tags.stage = 'transfer' and params.seed = '0'", order_by=["attributes.start_time"]
    )
    chosen = [run.info.run_id for run in arms][:6]
    wanted = quote("tags.stage = 'transfer' and params.seed = '0'")
    take(page, f"{address}/#/experiments/0/runs?searchFilter={wanted}", "mlflow_table", expanded=True)
    runs, experiments = quote(json.dumps(chosen)), quote(json.dumps(["0"]))
    take(page, f"{address}/#/compare-runs?runs={runs}&experiments={experiments}", "mlflow_compare")
    take(page, f"{address}/#/experiments/0/runs?searchFilter={wanted}&compareRunsMode=CHART", "mlflow_charts")


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Take all of them."""
    client = MlflowClient(f"sqlite:///{folder.resolve()}/mlflow.db")
    storage = f"sqlite:///{folder.resolve()}/optuna.db"
    number = max(optuna.storages.RDBStorage(storage).get_all_studies(), key=lambda found: found._study_id)._study_id
    browser_path = shutil.which("chromium")
    with uis(folder) as (mlflow_address, dashboard_address), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        look_at_mlflow(page, mlflow_address, client)
        take(page, f"{dashboard_address}/dashboard/studies/{number}", "optuna_dashboard")
        browser.close()


if __name__ == "__main__":
    main()
