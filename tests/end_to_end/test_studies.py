"""Plan runs in real processes: killed and resumed, interrupted, incomplete, in a terminal, under `mlflow run`."""

from __future__ import annotations

import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.tracking import names
from tests.conftest import clean_environment, copy_store
from tests.end_to_end.test_commands import mlflow_run, runs_in

PLAN = """
title: Small
description: A small study.
profiles: {quick: {seeds: 2, params: {transfer: {epochs: 30, patience: 30}}}}
common: {hidden_layers: 2, width: 16}
arms:
  base: {run: train_base, params: {classes: 0-4, epochs: 30, patience: 30}}
  reuse:
    run: transfer
    base: base
    params: {classes: 5-9, per_class: 20}
    grid: {reuse_layers: [0, 2]}
questions:
  - {key: "1", study: S, kind: compare, arms: [reuse], reference: "reuse[reuse_layers=0]", text: "Better?"}
"""
STEPS = 6


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    copy_store(empty_store, tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def words(*more: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", "main", "--plan", "plan.yaml", "--dataset", "digits", *more]


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words(*more), cwd=folder, env=clean_environment(), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def steps_of(folder: Path) -> list[Run]:
    return [run for run in runs_in(folder) if run.data.tags.get(names.STAGE) in ("train_base", "transfer")]


def wait_for(folder: Path, count: int) -> None:
    """Wait until `count` steps have started."""
    deadline = time.monotonic() + 120
    query = "SELECT count(*) FROM tags WHERE key = 'stage' AND value IN ('train_base', 'transfer')"
    while time.monotonic() < deadline:
        with closing(sqlite3.connect(folder / "mlflow.db", timeout=20)) as connection:
            if connection.execute(query).fetchone()[0] >= count:
                return
        time.sleep(0.02)
    raise AssertionError("the study did not get so far")


@pytest.mark.slow
def test_killed_plan_run_resumes_without_repeating_steps(folder: Path) -> None:
    for begun in (1, 3, 6):
        process = start(folder)
        wait_for(folder, begun)
        time.sleep(0.15 * begun)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(folder)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    done = Counter(run.data.tags[names.CACHE_KEY] for run in steps_of(folder) if run.info.status == "FINISHED")
    assert len(done) == STEPS and set(done.values()) == {1}, out
    assert "RUNNING" not in {run.info.status for run in runs_in(folder)}
    assert (folder / "reports" / "plan" / "study.html").stat().st_size > 10_000

    before, began = len(runs_in(folder)), time.monotonic()
    again = subprocess.run(words(), cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=100)
    assert again.returncode == 0 and f"nothing to do: all {STEPS} steps are cached" in again.stdout
    assert len(runs_in(folder)) == before and time.monotonic() - began < 60


@pytest.mark.slow
def test_interrupted_plan_run_is_marked_killed_and_resumes(folder: Path) -> None:
    process = start(folder)
    wait_for(folder, 4)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert {run.info.status for run in runs_in(folder)} <= {"FINISHED", "KILLED"}
    parent = next(run for run in runs_in(folder) if run.data.tags[names.STAGE] == "main")
    assert parent.info.status == "KILLED"
    finished = {run.info.run_id for run in steps_of(folder) if run.info.status == "FINISHED"}
    done = subprocess.run(words(), cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    second = next(run for run in client.search_runs(["0"], "tags.stage = 'main' and attributes.status = 'FINISHED'"))
    assert finished and set(second.data.tags["reused_runs"].split()) == finished


@pytest.mark.slow
def test_mlflow_run_executes_plan_and_links_cached_runs(project: Path) -> None:
    (project / "plan.yaml").write_text(PLAN)
    options = ("-P", "plan=plan.yaml", "-P", "dataset=digits", "-P", "seeds=1")
    for number in (1, 2):
        command, environment = mlflow_run(project, *options)
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        parents = [run for run in runs_in(project) if run.data.tags.get(names.STAGE) == "main"]
        assert len(parents) == number and {run.info.status for run in parents} == {"FINISHED"}
    first, second = sorted(parents, key=lambda run: run.info.start_time)
    children = {run.info.run_id for run in steps_of(project)}
    assert {run.data.tags[names.PARENT_RUN_ID] for run in steps_of(project)} == {first.info.run_id}
    assert len(children) == 3 and set(second.data.tags["reused_runs"].split()) == children
    assert first.data.params["plan"] == "plan.yaml" and first.data.params["profile"] == "quick"


@pytest.mark.slow
def test_incomplete_plan_run_exits_1_and_invalid_plan_2(folder: Path) -> None:
    (folder / "plan.yaml").write_text(PLAN.replace("[0, 2]", "[0, 9]"))  # the base has two layers
    done = subprocess.run(words("--seeds", "1"), cwd=folder, env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 1 and "1 of 3 steps are missing" in done.stderr and "Traceback" not in done.stderr
    invalid = {"run: transfr": "line 9, run: run=transfr", "per_class: 5000": "allow at most 109"}
    for change, message in invalid.items():
        key = change.split(":")[0]
        (folder / "plan.yaml").write_text(re.sub(rf"{key}: (transfer|20)\b", change, PLAN))
        done = subprocess.run(words(), cwd=folder, env=clean_environment(), capture_output=True, text=True)
        assert done.returncode == 2 and message in done.stderr, done.stderr


@pytest.mark.slow
def test_terminal_shows_arms_progress_and_time_left(folder: Path) -> None:
    leader, follower = pty.openpty()
    environment = clean_environment(COLUMNS="110", LINES="40", TERM="xterm")
    process = subprocess.Popen(words("--seeds", "2"), cwd=folder, env=environment, stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            shown += os.read(leader, 65536)
        except OSError:  # the process has exited
            break
    os.close(leader)
    assert process.wait(timeout=200) == 0
    text = shown.decode(errors="replace")
    print(text[-3000:])
    assert "reuse: reuse_layers=2" in text and "seed 1:" in text and "epoch " in text
    assert f"of {STEPS} steps" in text and "s left" in text
    assert "test accuracy" in text and "report: reports/plan/study.html" in text
