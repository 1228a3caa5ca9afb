"""Stages killed at random moments from their start to their end, on a machine with a tracking store and on one without.

Resumed until it is finished, a stage always comes to the same result; a store can be used whenever it was being made.
Four moments each by default. PIPELINE_KILLS=50 takes fifty, in about a quarter of an hour; PIPELINE_KILLS_SEED draws others.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Command, copy_store
from tests.faults.killing import (
    TINY,
    assert_one_ready_model,
    local_state,
    result_of,
    runs_of,
    stage,
    store_of,
    wait_until,
)

KILLS = int(os.environ.get("PIPELINE_KILLS", "4"))
SEED = int(os.environ.get("PIPELINE_KILLS_SEED", "0"))
FIRST = ("train_base", *TINY, "--epochs", "30")
WORDS = ("train_base", *TINY, "--epochs", "300")


@pytest.mark.slow
@pytest.mark.timeout(120 + 100 * KILLS)
def test_a_stage_killed_at_any_moment_comes_to_the_same_result(
    command: Command, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> None:
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    copy_store(empty_store, undisturbed)
    began = time.monotonic()
    with stage(undisturbed, *WORDS) as process:
        wait_until(lambda: run_folders(undisturbed) != set(), lambda: process.poll() is None)
        opened_seconds = time.monotonic() - began
        out, _ = process.communicate(timeout=200)
    lasts = Lasts(opened_seconds, time.monotonic() - began - opened_seconds)
    assert process.returncode == 0, out
    reference = result_of(store_of(undisturbed), runs_of(store_of(undisturbed))[0].info.run_id)

    draw = random.Random(SEED)
    came_to: Counter[str] = Counter()
    for number in range(KILLS):
        # one in ten is killed during imports and reading, before there is a run
        moment = Moment(number % 10 != 9, draw.random())
        came_to[killed_and_resumed(command, tmp_path, moment, lasts, reference)] += 1
    print(f"{KILLS} kills: {dict(came_to)}")
    assert came_to["resumed"] + came_to["uploaded by sync"] >= KILLS // 3


@pytest.mark.slow
@pytest.mark.timeout(120 + 100 * KILLS)
def test_a_first_command_killed_at_any_moment_leaves_a_working_store(tmp_path: Path) -> None:
    """Each in a folder of its own; one moment in every part of the command's life, which is as long as last seen."""
    began = time.monotonic()
    finished(fresh(tmp_path, "undisturbed"), *FIRST)
    lasts = time.monotonic() - began
    draw, left = random.Random(SEED), Counter[str]()
    for number in range(KILLS):
        folder = fresh(tmp_path, str(number))
        began = time.monotonic()
        with stage(folder, *FIRST) as process:
            try:
                process.communicate(timeout=(number + draw.random()) / KILLS * lasts)
                lasts = time.monotonic() - began
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate(timeout=30)
        left[what_is_left(folder)] += 1
        finished(folder, *FIRST)
        runs = [run for run in runs_of(store_of(folder)) if run.info.status != "KILLED"]
        assert {run.info.status for run in runs} == {"FINISHED"} and len(runs) <= 2, folder
        result_of(store_of(folder), runs[-1].info.run_id)  # complete: asserts it
    print(f"{KILLS} kills of the first command, {lasts:.1f} s long: {dict(left)}")


def fresh(parent: Path, name: str) -> Path:
    """A new folder."""
    (parent / name).mkdir()
    return parent / name


def finished(folder: Path, *words: str) -> None:
    """Run a stage to its end."""
    with stage(folder, *words) as process:
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out


def what_is_left(folder: Path) -> str:
    """What a killed first command has left in its folder."""
    if not (folder / "mlflow.db").exists():
        return "no store"
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if "runs" not in tables:
            return f"a store with {len(tables)} tables"
        statuses = [status for (status,) in connection.execute("SELECT status FROM runs")]
    return f"a run {statuses[0]}" if statuses else f"a store with {len(tables)} tables and no run"


@dataclass
class Lasts:
    """How long a stage takes until its run is opened, and from there; as last seen, since machines are busy at times."""

    opening_seconds: float
    run_seconds: float


@dataclass(frozen=True)
class Moment:
    """When to kill a stage: after which share of its run, or else of what comes before."""

    opened: bool
    share: float


def run_folders(folder: Path) -> set[Path]:
    """The local state of all runs."""
    return set(folder.glob(".pipeline/runs/*"))


def killed_and_resumed(command: Command, folder: Path, moment: Moment, lasts: Lasts, reference: object) -> str:
    """Kill a stage at a moment, bring its run to its end, compare it, and say what that took."""
    client = store_of(folder)
    known = {run.info.run_id for run in runs_of(client)}
    with stage(folder, *WORDS) as process:
        if moment.opened:
            wait_until(lambda: run_folders(folder) != set(), lambda: process.poll() is None)
        began = time.monotonic()
        try:
            process.communicate(timeout=moment.share * (lasts.run_seconds if moment.opened else lasts.opening_seconds))
            lasts.run_seconds = time.monotonic() - began
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=30)
    made = [run.info.run_id for run in runs_of(client) if run.info.run_id not in known]
    if not made:
        return "before its run was made"
    (run_id,) = made
    came_to = "finished by then"
    while client.get_run(run_id).info.status != "FINISHED":
        assert came_to != "uploaded by sync", "nothing is left that could be done"
        done = command("resume", "--run_id", run_id)
        came_to = "resumed"
        if done.returncode:
            assert done.returncode == 2 and "finished, but not uploaded yet" in done.stderr, (moment, done.stderr)
            assert command("sync").returncode == 0
            came_to = "uploaded by sync"
    if local_state(folder, run_id).exists():  # killed between the last delivery and clearing up
        assert command("sync").returncode == 0
    assert result_of(client, run_id) == reference, moment
    assert_one_ready_model(client, run_id)
    assert not local_state(folder, run_id).exists()
    return came_to
