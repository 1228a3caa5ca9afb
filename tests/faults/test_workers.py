"""Plans in worker processes: the same results as in one process, whoever is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from pipeline.tracking import names
from tests.conftest import copy_store
from tests.faults.killing import runs_of, stage, store_of, wait_until

pytestmark = pytest.mark.slow

PLAN = """
title: Small
description: A small study.
profiles: {quick: {seeds: 2, params: {train_base: {epochs: %d}, transfer: {epochs: %d}}}}
common: {hidden_layers: 2, width: 16, patience: 1000, checkpoint_every: 4}
arms:
  base: {run: train_base, params: {classes: 0-4}}
  reuse:
    run: transfer
    base: base
    params: {classes: 5-9, per_class: 20}
    grid: {reuse_layers: [0, 2]}
questions:
  - {key: "1", study: S, kind: compare, arms: [reuse], reference: "reuse[reuse_layers=0]", text: "Better?"}
"""
STEPS = 6
Results = dict[str, str]  # digest of the weights by cache key


def new_folder(parent: Path, empty_store: Path, epochs: int = 20) -> Path:
    """A folder with a plan and an empty store; a plan with other epochs has other cache keys."""
    folder = parent / f"{epochs} {len(list(parent.iterdir()))}"
    folder.mkdir()
    copy_store(empty_store, folder)
    (folder / "plan.yaml").write_text(PLAN % (epochs, epochs))
    return folder


def plan_in(folder: Path, workers: int, **environment: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """A running plan, killed with all its processes on exit."""
    words = ("main", "--plan", "plan.yaml", "--dataset", "digits", "--workers", str(workers))
    return stage(folder, *words, **environment)


def finish(folder: Path, workers: int, **environment: str) -> str:
    """Run a plan to its end and return its output."""
    with plan_in(folder, workers, **environment) as process:
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    return str(out)


def results(folder: Path) -> Results:
    """The weights of each finished step; a step that finished twice fails the test."""
    runs = [run for run in runs_of(store_of(folder)) if run.info.status == "FINISHED"]
    steps = [run.data.tags for run in runs if names.CACHE_KEY in run.data.tags]
    found = {tags[names.CACHE_KEY]: tags[names.WEIGHTS_DIGEST] for tags in steps}
    assert len(found) == len(steps)
    return found


def training_steps(folder: Path) -> int:
    """The number of running steps that have logged an epoch."""
    journals = folder.glob(".pipeline/runs/*/journal.jsonl")
    return sum('"val/loss"' in path.read_text() for path in journals)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The live worker processes of a running plan."""
    found = []
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # or a zombie
            if "pipeline.execution.worker" in child.cmdline():
                found.append(child)
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Results:
    """The results of an undisturbed plan in one process."""
    folder = new_folder(tmp_path_factory.mktemp("expected"), empty_store)
    finish(folder, 1)
    assert len(results(folder)) == STEPS
    return results(folder)


def test_results_do_not_depend_on_number_of_workers(tmp_path: Path, empty_store: Path, expected: Results) -> None:
    folder = new_folder(tmp_path, empty_store)
    finish(folder, 3)
    assert results(folder) == expected
    for run in runs_of(store_of(folder))[1:]:
        log = store_of(folder).download_artifacts(run.info.run_id, names.WORKER_LOG, str(tmp_path))
        assert "data: " in Path(log).read_text() and run.info.run_id in Path(log).read_text()
    assert "nothing to do: all 6 steps are cached" in finish(folder, 3)
    assert not list(folder.glob(".pipeline/runs/*"))


def test_killed_worker_is_replaced(tmp_path: Path, empty_store: Path, expected: Results) -> None:
    folder = new_folder(tmp_path, empty_store)
    with plan_in(folder, 2) as process:
        wait_until(lambda: training_steps(folder) == 2, lambda: process.poll() is None)
        workers_of(process)[0].kill()
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0 and "was killed by signal 9 (out of memory?); running it again" in out, out
    assert results(folder) == expected


def test_ctrl_c_stops_all_workers(tmp_path: Path, empty_store: Path) -> None:
    folder = new_folder(tmp_path, empty_store, 5000)
    with plan_in(folder, 2) as process:
        wait_until(lambda: training_steps(folder) == 2, lambda: process.poll() is None)
        workers = workers_of(process)
        os.kill(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert len(workers) == 2 and not any(worker.is_running() for worker in workers)
    runs = runs_of(store_of(folder))
    assert len(runs) == 3 and {run.info.status for run in runs} == {"KILLED"}


def test_workers_end_with_a_killed_owner(tmp_path: Path, empty_store: Path) -> None:
    folder = new_folder(tmp_path, empty_store, 5000)
    with plan_in(folder, 2) as process:
        wait_until(lambda: training_steps(folder) == 2, lambda: process.poll() is None)
        workers = workers_of(process)
        process.kill()
        wait_until(lambda: not any(worker.is_running() for worker in workers), seconds=15)
    steps = [run for run in runs_of(store_of(folder)) if run.data.tags[names.STAGE] == "train_base"]
    assert [run.info.status for run in steps] == ["KILLED", "KILLED"]


def test_everything_killed_and_run_again_gives_the_same_results(
    tmp_path: Path, empty_store: Path, expected: Results
) -> None:
    folder = new_folder(tmp_path, empty_store)
    with plan_in(folder, 2) as process:
        wait_until(lambda: training_steps(folder) > 0, lambda: process.poll() is None)
        os.killpg(process.pid, signal.SIGKILL)
    finish(folder, 2)
    assert results(folder) == expected


def test_two_owners_share_the_work(tmp_path: Path, empty_store: Path, expected: Results) -> None:
    folder = new_folder(tmp_path, empty_store)
    with plan_in(folder, 1) as one, plan_in(folder, 2) as two:
        outputs = [process.communicate(timeout=200)[0] for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), outputs
    assert results(folder) == expected


def test_suspended_holder_neither_duplicates_nor_replaces_the_result(tmp_path: Path, empty_store: Path) -> None:
    folder = new_folder(tmp_path, empty_store, 200)
    lease = {"PIPELINE_LEASE_SECONDS": "3"}
    with plan_in(folder, 1, **lease) as suspended:
        wait_until(lambda: training_steps(folder) == 1, lambda: suspended.poll() is None)
        suspended.send_signal(signal.SIGSTOP)
        finish(folder, 1, **lease)
        accepted = results(folder)
        suspended.send_signal(signal.SIGCONT)
        out, _ = suspended.communicate(timeout=200)
    assert suspended.returncode == 0, out
    assert len(accepted) == STEPS and results(folder) == accepted
    runs = runs_of(store_of(folder))
    (old,) = [run for run in runs if names.SUPERSEDED_BY in run.data.tags]
    assert old.info.status == "KILLED" and "test/accuracy" not in old.data.metrics
    assert old.data.tags[names.SUPERSEDED_BY] in {run.info.run_id for run in runs if run.info.status == "FINISHED"}
