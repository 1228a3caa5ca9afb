"""A stage killed at random moments from its start to its end, resumed until it is finished: always the same result.

Four moments by default. PIPELINE_KILLS=50 takes fifty, in about a quarter of an hour; PIPELINE_KILLS_SEED draws others.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
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
    assert came_to["resumed"] + came_to["delivered by sync"] >= KILLS // 3


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
        assert came_to != "delivered by sync", "nothing is left that could be done"
        done = command("resume", "--run_id", run_id)
        came_to = "resumed"
        if done.returncode:
            assert done.returncode == 2 and "only its delivery is pending" in done.stderr, (moment, done.stderr)
            assert command("sync").returncode == 0
            came_to = "delivered by sync"
    if local_state(folder, run_id).exists():  # killed between the last delivery and clearing up
        assert command("sync").returncode == 0
    assert result_of(client, run_id) == reference, moment
    assert_one_ready_model(client, run_id)
    assert not local_state(folder, run_id).exists()
    return came_to
