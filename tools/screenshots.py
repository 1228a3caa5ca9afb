"""Take the screenshots of docs/comparing-runs.md: `python -m tools.screenshots FOLDER`.

FOLDER is where a plan was run (it contains `mlflow.db` and `optuna.db`). Runs both UIs on loopback and opens them in
headless Chromium. Needs the dev requirements and Debian's chromium.
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
START_SECONDS, DRAWN_MS = 120, 15_000  # the UIs load megabytes of scripts and keep polling
CLICKED_MS = 3_000
SIZE = {"width": 1500, "height": 950}


def free_port() -> int:
    """Return an unused port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def uis(folder: Path) -> Iterator[tuple[str, str]]:
    """Run both UIs on a folder's stores; yield the URLs of MLflow and the dashboard."""
    ports = free_port(), free_port()
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "ui",
        "--mlflow_port",
        str(ports[0]),
        "--dashboard_port",
        str(ports[1]),
    ]
    environment = {**os.environ, "PYTHONPATH": str(IMAGES.parent.parent)}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not all(responds(port) for port in ports):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the UIs did not start")
                time.sleep(0.5)
            yield f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
        finally:
            process.send_signal(signal.SIGINT)


def responds(port: int) -> bool:
    """Whether a port serves HTTP."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
    except OSError:
        return False
    return True


def take_screenshot(page: Page, address: str, name: str, *, expanded: bool = False) -> None:
    """Open a page, wait until it is rendered, and save a screenshot."""
    page.goto(address)
    page.wait_for_timeout(DRAWN_MS)
    assistant = page.get_by_role("button", name="Close")
    if assistant.count():
        assistant.last.click()
    if expanded:
        page.locator("[role='gridcell'] button").first.click()  # the plan run, with its steps nested below
    page.wait_for_timeout(CLICKED_MS)
    page.screenshot(path=IMAGES / f"{name}.png")
    click.echo(IMAGES / f"{name}.png")


def take_mlflow_screenshots(page: Page, address: str, client: MlflowClient) -> None:
    """Take the run table of a plan, the comparison of some arms, and their curves."""
    arms = client.search_runs(
        ["0"], "tags.stage = 'transfer' and params.seed = '0'", order_by=["attributes.start_time"]
    )
    run_ids = [run.info.run_id for run in arms][:6]
    search = quote("tags.stage = 'transfer' and params.seed = '0'")
    take_screenshot(page, f"{address}/#/experiments/0/runs?searchFilter={search}", "mlflow_table", expanded=True)
    runs, experiments = quote(json.dumps(run_ids)), quote(json.dumps(["0"]))
    take_screenshot(page, f"{address}/#/compare-runs?runs={runs}&experiments={experiments}", "mlflow_compare")
    take_screenshot(
        page, f"{address}/#/experiments/0/runs?searchFilter={search}&compareRunsMode=CHART", "mlflow_charts"
    )


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Take all screenshots."""
    client = MlflowClient(f"sqlite:///{folder.resolve()}/mlflow.db")
    storage = f"sqlite:///{folder.resolve()}/optuna.db"
    number = max(optuna.storages.RDBStorage(storage).get_all_studies(), key=lambda study: study._study_id)._study_id
    browser_path = shutil.which("chromium")
    with uis(folder) as (mlflow_address, dashboard_address), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        take_mlflow_screenshots(page, mlflow_address, client)
        take_screenshot(page, f"{dashboard_address}/dashboard/studies/{number}", "optuna_dashboard")
        browser.close()


if __name__ == "__main__":
    main()
