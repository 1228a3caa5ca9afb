"""Which processes are taken to live, to be gone, or to be out of sight; with real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from pipeline import runtime
from pipeline.runtime import process_identity, process_lives
from pipeline.tracking.outbox.journal import Journal
from pipeline.tracking.outbox.local_state import lock_run_state, run_folder
from pipeline.tracking.recovery.orphans import close_orphaned_runs
from tests.conftest import ROOT

NAME_ITSELF = """import sys
from pipeline.runtime import process_identity
print(process_identity()["process"], flush=True)
sys.stdin.read()
"""
ELSEWHERE = "17 4.20 another-boot/pid:[4026531836]"


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """A process that prints its identity, and lives until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", NAME_ITSELF], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        yield process


def identity_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def step_the_clock(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """What psutil sees after a step: the kernel states the boot's time by the wall clock."""
    real = psutil.boot_time()
    module = sys.modules[type(psutil.Process()._proc).__module__]  # type: ignore[attr-defined]
    patch.setattr(module, "boot_time", lambda: real + seconds)


def test_a_clock_step_does_not_make_a_process_look_dead(
    other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, own = identity_of(other), process_identity()["process"]
    step_the_clock(monkeypatch, 5)
    assert process_lives(identity) and process_lives(own) and process_identity()["process"] == own
    other.communicate()
    assert process_lives(identity) is False


def test_a_clock_step_leaves_live_runs_running(
    store: MlflowClient, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = store.create_run("0", tags={**process_identity(), "process": identity_of(other)}).info.run_id
    step_the_clock(monkeypatch, -3600)
    close_orphaned_runs(store)
    assert store.get_run(run_id).info.status == "RUNNING"
    other.communicate()
    close_orphaned_runs(store)
    assert store.get_run(run_id).info.status == "KILLED"


def test_a_zombie_is_gone(other: subprocess.Popen[str]) -> None:
    identity = identity_of(other)
    other.kill()
    while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert process_lives(identity) is False


def test_a_reused_process_id_is_another_process() -> None:
    number, _, scope = process_identity()["process"].split()
    assert process_lives(f"{number} 0.01 {scope}") is False


def test_another_boot_or_container_cannot_be_judged() -> None:
    own = process_identity()["process"]
    boot, namespace = runtime.process_scope().split("/")
    assert process_lives(own.replace(boot, "another-boot")) is None
    assert process_lives(own.replace(namespace, "pid:[1]"), socket.gethostname()) is None


@pytest.mark.parametrize("host", [socket.gethostname(), "renamed"])
def test_a_changed_host_name_hides_no_process(host: str) -> None:
    assert process_lives(process_identity()["process"], host) is True


def test_identities_of_earlier_releases_are_judged_by_host() -> None:
    own = f"{os.getpid()} {psutil.Process().create_time():.2f}"
    assert process_lives(own, socket.gethostname()) is True
    assert process_lives(f"{os.getpid()} 1.00", socket.gethostname()) is False
    assert process_lives(own, "elsewhere") is None


@pytest.mark.parametrize("text", ["", "x", "-1 0.1", f"{10**30} 1.0", "1 x", "1"])
def test_what_is_no_identity_does_not_live(text: str) -> None:
    assert not process_lives(text)


def test_a_run_out_of_sight_is_closed_only_where_its_state_lies_unheld(store: MlflowClient, tmp_path: Path) -> None:
    tags = {"host": socket.gethostname(), "process": ELSEWHERE}
    unheld, held, remote = (store.create_run("0", tags=tags).info.run_id for _ in range(3))
    for run_id in (unheld, held):
        Journal(run_folder(run_id)).close()
    lock = lock_run_state(run_folder(held))
    close_orphaned_runs(store)
    assert lock is not None
    lock.release()
    states = [store.get_run(run_id).info.status for run_id in (unheld, held, remote)]
    assert states == ["KILLED", "RUNNING", "RUNNING"]


def test_runs_that_name_no_process_are_left_alone(store: MlflowClient) -> None:
    run_id = store.create_run("0").info.run_id
    close_orphaned_runs(store)
    assert store.get_run(run_id).info.status == "RUNNING"
