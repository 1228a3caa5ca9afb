"""Stages killed at random times, with an existing tracking store and without one.

A killed stage, resumed until it finishes, gives a bit-identical result; a store killed during its creation still works.
Four kills per test by default. PIPELINE_KILLS=50 runs fifty in about 15 minutes; PIPELINE_KILLS_SEED samples other times.
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
def test_kill_and_resume_is_bit_identical(
    command: Command, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> None:
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    copy_store(empty_store, undisturbed)
    began = time.monotonic()
    with stage(undisturbed, *WORDS) as process:
        wait_until(lambda: run_folders(undisturbed) != set(), lambda: process.poll() is None)
        opened_seconds = time.monotonic() - began
        out, _ = process.communicate(timeout=200)
    durations = Durations(opened_seconds, time.monotonic() - began - opened_seconds)
    assert process.returncode == 0, out
    reference = result_of(store_of(undisturbed), runs_of(store_of(undisturbed))[0].info.run_id)

    draw = random.Random(SEED)
    came_to: Counter[str] = Counter()
    for number in range(KILLS):
        # one in ten is killed during imports and data loading, before its run exists
        moment = KillTime(number % 10 != 9, draw.random())
        came_to[kill_and_resume(command, tmp_path, moment, durations, reference)] += 1
    print(f"{KILLS} kills: {dict(came_to)}")
    assert came_to["resumed"] + came_to["uploaded by sync"] >= KILLS // 3


@pytest.mark.slow
@pytest.mark.timeout(120 + 100 * KILLS)
def test_killed_first_command_leaves_a_working_store(tmp_path: Path) -> None:
    """Each in a folder of its own; one moment in every part of the command's life, which is as long as last seen."""
    began = time.monotonic()
    run_to_completion(new_folder(tmp_path, "undisturbed"), *FIRST)
    seconds = time.monotonic() - began
    draw, leftovers = random.Random(SEED), Counter[str]()
    for number in range(KILLS):
        folder = new_folder(tmp_path, str(number))
        began = time.monotonic()
        with stage(folder, *FIRST) as process:
            try:
                process.communicate(timeout=(number + draw.random()) / KILLS * seconds)
                seconds = time.monotonic() - began
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate(timeout=30)
        leftovers[describe_leftovers(folder)] += 1
        run_to_completion(folder, *FIRST)
        runs = [run for run in runs_of(store_of(folder)) if run.info.status != "KILLED"]
        assert {run.info.status for run in runs} == {"FINISHED"} and len(runs) <= 2, folder
        result_of(store_of(folder), runs[-1].info.run_id)  # asserts that the run is complete
    print(f"{KILLS} kills of the first command, {seconds:.1f} s long: {dict(leftovers)}")


def new_folder(parent: Path, name: str) -> Path:
    """Create a folder and return its path."""
    (parent / name).mkdir()
    return parent / name


def run_to_completion(folder: Path, *words: str) -> None:
    """Run a stage to completion."""
    with stage(folder, *words) as process:
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out


def describe_leftovers(folder: Path) -> str:
    """Describe what a killed first command left in its folder."""
    if not (folder / "mlflow.db").exists():
        return "no store"
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if "runs" not in tables:
            return f"a store with {len(tables)} tables"
        statuses = [status for (status,) in connection.execute("SELECT status FROM runs")]
    return f"a run {statuses[0]}" if statuses else f"a store with {len(tables)} tables and no run"


@dataclass
class Durations:
    """Latest measured seconds until a stage's run is opened, and from then on; updated because the load varies."""

    opening_seconds: float
    run_seconds: float


@dataclass(frozen=True)
class KillTime:
    """When to kill a stage: after a fraction of its run, or of the startup before it."""

    opened: bool
    share: float


def run_folders(folder: Path) -> set[Path]:
    """The local state folders of all runs."""
    return set(folder.glob(".pipeline/runs/*"))


def kill_and_resume(command: Command, folder: Path, moment: KillTime, durations: Durations, reference: object) -> str:
    """Kill a stage, resume its run to completion, compare it with the reference, and return how it finished."""
    client = store_of(folder)
    known = {run.info.run_id for run in runs_of(client)}
    with stage(folder, *WORDS) as process:
        if moment.opened:
            wait_until(lambda: run_folders(folder) != set(), lambda: process.poll() is None)
        began = time.monotonic()
        try:
            process.communicate(
                timeout=moment.share * (durations.run_seconds if moment.opened else durations.opening_seconds)
            )
            durations.run_seconds = time.monotonic() - began
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=30)
    new_runs = [run.info.run_id for run in runs_of(client) if run.info.run_id not in known]
    if not new_runs:
        return "before its run was made"
    (run_id,) = new_runs
    came_to = "finished by then"
    while client.get_run(run_id).info.status != "FINISHED":
        assert came_to != "uploaded by sync", "nothing is left that could be done"
        done = command("resume", "--run_id", run_id)
        came_to = "resumed"
        if done.returncode:
            assert done.returncode == 2 and "finished, but not uploaded yet" in done.stderr, (moment, done.stderr)
            assert command("sync").returncode == 0
            came_to = "uploaded by sync"
    if local_state(folder, run_id).exists():  # killed between the last upload and cleanup
        assert command("sync").returncode == 0
    assert result_of(client, run_id) == reference, moment
    assert_one_ready_model(client, run_id)
    assert not local_state(folder, run_id).exists()
    return came_to
