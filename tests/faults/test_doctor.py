"""`python -m pipeline doctor`: a healthy environment, and each failure it can report, triggered for real."""

from __future__ import annotations

import http.server
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pytest
from mlflow import MlflowClient

from pipeline import doctor
from pipeline.checks import CheckResult
from pipeline.runtime import process_identity
from pipeline.tracking.outbox.journal import Journal, send_pending
from pipeline.tracking.recovery.orphans import close_orphaned_runs
from pipeline.tracking.store_checks import examine_server_clock, examine_store
from pipeline.tuning.storage_checks import examine_storage
from pipeline.tuning.study import open_storage
from tests.conftest import ROOT, Command
from tests.end_to_end.test_commands import mlflow_run
from tests.faults.killing import wait_until
from tests.faults.test_files import may_mount, needs_mount, small_disk
from tests.test_data import write_idx


def lines(results: Iterator[CheckResult], what: str = "") -> list[str]:
    """The check results as printed, all or of one kind."""
    return [str(result) for result in results if not what or result.what == what]


def test_doctor_passes_and_leaves_nothing_behind(command: Command, tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    began = time.monotonic()
    done = command("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 60  # three to five seconds on an idle machine
    found = done.stdout.splitlines()
    assert all(line.startswith(("ok    ", "note  ")) for line in found[:-1]), done.stdout
    assert found[-1].endswith("checks, 0 failed")
    for what in ("python", "torch", "torchvision", "device", "tracking store", "runs", "journals", "clock", "disk"):
        assert any(line[6:].startswith(f"{what}: ") for line in found), what
    assert "is writable, experiment Default, schema " in done.stdout
    left = {path.name for path in tmp_path.iterdir()} - before
    assert all(name.startswith("mlflow.db") for name in left), left
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("SELECT count(*) FROM experiment_tags").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)


@pytest.mark.slow
def test_failed_checks_print_a_fix_and_exit_with_1(command: Command) -> None:
    done = command(
        "doctor",
        MLFLOW_TRACKING_URI="http://ada:Engine-1843@127.0.0.1:1",
        PIPELINE_STORAGE="sqlite:////proc/no/optuna.db",
    )
    assert done.returncode == 1
    failing = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failing) == 2, done.stdout
    assert (
        "tracking store: MLFLOW_TRACKING_URI=http://127.0.0.1:1 cannot be used" in failing[0]
        and "start the server" in failing[0]
    )
    assert "study storage: /proc/no/optuna.db cannot be created" in failing[1] and "PIPELINE_STORAGE" in failing[1]
    assert "Engine-1843" not in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1].endswith("checks, 2 failed")


def test_another_package_named_pipeline_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (alone,) = lines(doctor.examine_import_name())
    assert alone == f"ok    pipeline: {ROOT / 'pipeline'}, the only package of this name"
    (tmp_path / "pipeline").mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert lines(doctor.examine_import_name()) == [alone]  # a folder that is no package hides nothing
    (tmp_path / "pipeline" / "__init__.py").touch()
    (clash,) = lines(doctor.examine_import_name())
    assert clash.startswith(f"note  pipeline: also the name of {tmp_path}/pipeline/__init__.py, which may hide")


def test_tracking_store_in_unwritable_folder_fails(monkeypatch: pytest.MonkeyPatch, store: MlflowClient) -> None:
    mlflow.set_tracking_uri("sqlite:////proc/nowhere/mlflow.db")
    (line,) = lines(examine_store(), "tracking store")
    assert line.startswith("FAIL  tracking store: /proc/nowhere/mlflow.db cannot be created: /proc: ")


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only; for root, who bypasses permissions, with a bind mount."""
    if os.geteuid() == 0:
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    else:
        folder.chmod(0o555)
        for path in folder.iterdir():
            path.chmod(0o444)
    try:
        yield
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        else:
            folder.chmod(0o755)


@pytest.mark.skipif(os.geteuid() == 0 and not may_mount(), reason="nothing is read-only to root without a mount")
def test_read_only_stores_fail(store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").mkdir()
    for name in ("mlflow.db", "optuna.db"):
        with sqlite3.connect(tmp_path / "mlflow.db") as source, sqlite3.connect(tmp_path / "kept" / name) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/kept/mlflow.db")
    monkeypatch.setenv("PIPELINE_STORAGE", f"sqlite:///{tmp_path}/kept/optuna.db")
    monkeypatch.setenv("PIPELINE_STATE_DIR", str(tmp_path / "kept"))
    with read_only(tmp_path / "kept"):
        found = [*lines(examine_store()), *lines(examine_storage())]
    assert [line[:20] for line in found] == ["FAIL  tracking store", "FAIL  state folder: ", "FAIL  study storage:"]
    assert f"MLFLOW_TRACKING_URI=sqlite:///{tmp_path}/kept/mlflow.db cannot be used" in found[0]
    assert "PIPELINE_STATE_DIR" in found[1] and "PIPELINE_STORAGE" in found[2]


@needs_mount
def test_nearly_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", "5m") as disk:
        monkeypatch.setenv("PIPELINE_STATE_DIR", str(disk / "state"))
        found = lines(doctor.examine_disks())
    assert found[0].startswith("FAIL  disk: 0.0 GiB free under") and "PIPELINE_STATE_DIR" in found[0]
    assert len(found) >= 2 and all(str(disk) not in line for line in found[1:])


def test_damaged_data_file_fails(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    for part, count in (("train", 30), ("t10k", 20)):
        write_idx(raw / f"{part}-images-idx3-ubyte", np.zeros((count, 28, 28)))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    (line,) = lines(doctor.examine_data(tmp_path))
    assert line.startswith("ok    data: fashion_mnist in ") and "30 and 20 images" in line
    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    (line,) = lines(doctor.examine_data(tmp_path))
    assert line.startswith(f"FAIL  data: {path}: this file is truncated") and "Remove it and run again" in line
    path.unlink()
    (line,) = lines(doctor.examine_data(tmp_path))
    assert line.startswith("note  data: fashion_mnist in ") and "lacks train-images-idx3-ubyte" in line
    (line,) = lines(doctor.examine_data(tmp_path / "nowhere"))
    assert line.startswith("note  data: none in") and "PIPELINE_DATA_DIR" in line


@pytest.mark.mnist
def test_mnist_digests_are_verified() -> None:
    from tests.conftest import MNIST_DIR

    assert any(
        "mnist in" in line and "SHA-256 as published" in line for line in lines(doctor.examine_data(Path(MNIST_DIR)))
    )


def ended_process() -> str:
    """The identity of a process that has exited."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        number = process.pid
    return f"{number} {time.time() - 100:.2f}"


def test_orphaned_runs_and_pending_journals_are_listed(store: MlflowClient, tmp_path: Path) -> None:
    identity = process_identity()
    alive = store.create_run("0", tags=identity)
    assert lines(examine_store(), "runs") == ["ok    runs: 1 RUNNING, none orphaned"]
    dead = store.create_run("0", tags={**identity, "process": ended_process()})
    (line,) = lines(examine_store(), "runs")
    assert line.startswith("note  runs: 1 RUNNING without a process: " + dead.info.run_id)
    for run, status in ((alive, None), (dead, "KILLED")):
        journal = Journal(tmp_path / ".pipeline" / "runs" / run.info.run_id)
        journal.append({"kind": "tags", "tags": {}})
        if status:
            journal.append({"kind": "status", "status": status, "end_time": 1})
        journal.close()
    (line,) = lines(examine_store(), "journals")
    assert line.startswith("note  journals: 2 of 2 in .pipeline not uploaded: ") and dead.info.run_id in line
    for run in (alive, dead):
        send_pending(tmp_path / ".pipeline" / "runs" / run.info.run_id, lambda entries: None, print)
    assert lines(examine_store(), "journals") == ["ok    journals: 2 in .pipeline, all uploaded"]
    path = tmp_path / ".pipeline" / "runs" / dead.info.run_id / "journal.jsonl"
    path.write_bytes(b"torn\n" + path.read_bytes())
    (line,) = lines(examine_store(), "journal")
    assert line.startswith("FAIL  journal: ") and str(path.relative_to(tmp_path)) in line


def test_deleted_experiment_fails_and_missing_one_is_not_created(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "later")
    (line,) = lines(examine_store(), "tracking store")
    assert line.startswith("note") and "experiment later does not exist yet" in line
    assert store.get_experiment_by_name("later") is None
    store.delete_experiment(store.create_experiment("later"))
    (line,) = lines(examine_store(), "tracking store")
    assert line.startswith("FAIL  tracking store: experiment later is deleted")


def test_unwritable_artifact_location_fails(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create_experiment("elsewhere", artifact_location="/proc/nowhere")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    (line,) = lines(examine_store(), "artifacts")
    assert line.startswith("FAIL  artifacts: not writable: /proc: ")


@pytest.mark.slow
def test_outdated_schema_fails(command: Command, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    done = command("doctor")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert line.startswith("FAIL  tracking store: ") and "schema" in line, line


def test_study_storage_check_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PIPELINE_STORAGE", raising=False)
    (line,) = lines(examine_storage())
    assert line == "note  study storage: optuna.db does not exist yet; the first study creates it"
    optuna.create_study(storage=open_storage(), study_name="mine")
    (line,) = lines(examine_storage())
    assert line == "ok    study storage: sqlite:///optuna.db: created and deleted a test study"
    assert optuna.get_all_study_names(open_storage()) == ["mine"]
    (tmp_path / "optuna.db").write_bytes(b"not a database" * 1000)
    (line,) = lines(examine_storage())
    assert line.startswith("FAIL  study storage: PIPELINE_STORAGE=sqlite:///optuna.db cannot be used")


@contextmanager
def server_with_date(date: str) -> Iterator[str]:
    """A server that responds with the given Date header."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.send_header("Date", date)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_clock_skew_against_server_is_noted(store: MlflowClient) -> None:
    with server_with_date("Tue, 02 Jan 2024 00:00:00 GMT") as address:
        mlflow.set_tracking_uri(address)
        (line,) = lines(examine_server_clock())
    assert line.startswith("note  clock: ") and "ahead of the tracking server's" in line
    now = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    with server_with_date(now) as address:
        mlflow.set_tracking_uri(address)
        assert lines(examine_server_clock()) == ["ok    clock: within a minute of the tracking server's"]


def test_unset_or_backwards_clock_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = lines(doctor.examine_clock())
    assert line.startswith("ok    clock: 20")
    monkeypatch.setattr("pipeline.doctor.time.time", lambda: 3600.0)
    (line,) = lines(doctor.examine_clock())
    assert line.startswith("FAIL  clock: reads 1970-01-01")
    ticks = iter([2e9, 1.9e9])
    monkeypatch.setattr("pipeline.doctor.time.time", lambda: next(ticks))
    (line,) = lines(doctor.examine_clock())
    assert line.startswith("FAIL  clock: runs backwards")


def test_mismatched_torch_builds_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [line[:4] for line in lines(doctor.examine_torch())] in (["ok  ", "ok  "], ["ok  ", "note"])
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy", "torch==1.0.0"])
    found = lines(doctor.examine_torch())
    assert found[1].startswith("FAIL  torchvision: ") and "needs torch 1.0.0" in found[1]


def test_environment_variables_are_printed_without_passwords() -> None:
    shown = lines(
        doctor.examine_variables(
            {
                "MLFLOW_TRACKING_PASSWORD": "hunter2",
                "PGPASSWORD": "hunter2",
                "PIPELINE_STORAGE": "postgresql://me:hunter2@host/db",
                "OMP_NUM_THREADS": "3",
                "HOME": "/root",
            }
        )
    )
    assert len(shown) == 4 and all(line.startswith("note  ") for line in shown)
    assert "hunter2" not in "".join(shown) and any("OMP_NUM_THREADS: 3" in line for line in shown)
    assert lines(doctor.examine_variables({})) == ["ok    environment: no variable affects a stage"]


def test_crashed_check_is_reported_and_others_still_run(monkeypatch: pytest.MonkeyPatch, store: MlflowClient) -> None:
    def broken() -> Iterator[CheckResult]:
        raise KeyError("something unforeseen")
        yield

    monkeypatch.setattr(doctor, "examine_python", broken)
    found = lines(doctor.examine({}))
    assert found[0].startswith("FAIL  check: failed with KeyError") and len(found) > 6


@pytest.mark.slow
def test_unstarted_mlflow_run_is_closed_after_its_launcher_dies(
    project: Path, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    conda = project / "bin" / "conda"
    conda.parent.mkdir()
    conda.write_text("#!/bin/sh\nexec sleep 600\n")  # creating the environment takes ten minutes
    conda.chmod(0o755)
    words, environment = mlflow_run(project, "-e", "train_base")
    words = [word for word in words if word not in ("--env-manager", "local")]
    environment["PATH"] = f"{conda.parent}:{environment['PATH']}"
    with subprocess.Popen(words, cwd=project, env=environment, start_new_session=True) as process:
        wait_until(lambda: "mlflow.project.env" in tags_of_all(store), lambda: process.poll() is None)
        close_orphaned_runs(store)
        (run,) = store.search_runs(["0"])
        assert run.info.status == "RUNNING"
        (line,) = lines(examine_store(), "runs")
        assert line.startswith("ok ") and "none orphaned" in line
        os.killpg(process.pid, signal.SIGKILL)
    (line,) = lines(examine_store(), "runs")
    assert line.startswith(f"note  runs: 1 RUNNING without a process: {run.info.run_id}")
    close_orphaned_runs(store)
    run = store.get_run(run.info.run_id)
    assert run.info.status == "KILLED" and "exited before the command started" in run.data.tags["mlflow.note.content"]
    (line,) = lines(examine_store(), "runs")
    assert "none orphaned" in line


def tags_of_all(client: MlflowClient) -> set[str]:
    """The names of all tags in all runs."""
    return {name for run in client.search_runs(["0"]) for name in run.data.tags}
