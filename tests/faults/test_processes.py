"""Process liveness: alive, dead or not visible from here; with real processes."""

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

PRINT_IDENTITY = """import sys
from pipeline.runtime import process_identity
print(process_identity()["process"], flush=True)
sys.stdin.read()
"""
ELSEWHERE = "17 4.20 another-boot/pid:[4026531836]"


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """A process that prints its identity and runs until its stdin is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", PRINT_IDENTITY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        yield process


def identity_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def step_clock(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """Simulate a clock step as psutil sees it: the kernel reports the boot time in wall-clock time."""
    real = psutil.boot_time()
    module = sys.modules[type(psutil.Process()._proc).__module__]  # type: ignore[attr-defined]
    patch.setattr(module, "boot_time", lambda: real + seconds)


def test_clock_step_does_not_change_process_liveness(
    other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, own = identity_of(other), process_identity()["process"]
    step_clock(monkeypatch, 5)
    assert process_lives(identity) and process_lives(own) and process_identity()["process"] == own
    other.communicate()
    assert process_lives(identity) is False


def test_clock_step_leaves_live_runs_running(
    store: MlflowClient, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = store.create_run("0", tags={**process_identity(), "process": identity_of(other)}).info.run_id
    step_clock(monkeypatch, -3600)
    close_orphaned_runs(store)
    assert store.get_run(run_id).info.status == "RUNNING"
    other.communicate()
    close_orphaned_runs(store)
    assert store.get_run(run_id).info.status == "KILLED"


def test_zombie_counts_as_dead(other: subprocess.Popen[str]) -> None:
    identity = identity_of(other)
    other.kill()
    while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert process_lives(identity) is False


def test_reused_pid_is_a_different_process() -> None:
    number, _, scope = process_identity()["process"].split()
    assert process_lives(f"{number} 0.01 {scope}") is False


def test_liveness_is_unknown_across_boots_and_containers() -> None:
    own = process_identity()["process"]
    boot, namespace = runtime.process_scope().split("/")
    assert process_lives(own.replace(boot, "another-boot")) is None
    assert process_lives(own.replace(namespace, "pid:[1]"), socket.gethostname()) is None


@pytest.mark.parametrize("host", [socket.gethostname(), "renamed"])
def test_liveness_ignores_host_name_changes(host: str) -> None:
    assert process_lives(process_identity()["process"], host) is True


def test_legacy_identities_are_checked_by_host() -> None:
    own = f"{os.getpid()} {psutil.Process().create_time():.2f}"
    assert process_lives(own, socket.gethostname()) is True
    assert process_lives(f"{os.getpid()} 1.00", socket.gethostname()) is False
    assert process_lives(own, "elsewhere") is None


@pytest.mark.parametrize("text", ["", "x", "-1 0.1", f"{10**30} 1.0", "1 x", "1"])
def test_malformed_identity_is_not_alive(text: str) -> None:
    assert not process_lives(text)


def test_invisible_run_is_closed_only_if_its_state_is_unlocked(store: MlflowClient, tmp_path: Path) -> None:
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


def test_runs_without_process_tag_are_left_alone(store: MlflowClient) -> None:
    run_id = store.create_run("0").info.run_id
    close_orphaned_runs(store)
    assert store.get_run(run_id).info.status == "RUNNING"
