"""Local state of finished runs: what `clean` lists, removes and keeps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.clean import clean
from pipeline.state_dir import state_folder
from pipeline.tracking import names
from pipeline.tracking.outbox.journal import Entry, Journal, send_pending
from pipeline.tracking.outbox.local_state import lock_run_state, run_folder
from pipeline.tracking.outbox.sender import REJECTED
from pipeline.tracking.recovery.sync import sync_runs
from tests.conftest import Command
from tests.faults.killing import TINY, journaled_epochs, kill_when, local_state, runs_of, store_of

OPENED: Entry = {"kind": "opened"}
STAGE: Entry = {"kind": "tags", "tags": {names.STAGE: "train_base"}}
UPLOAD: Entry = {"kind": "file", "path": "unused", "folder": names.CHECKPOINTS}
KILLED: Entry = {"kind": "status", "status": "KILLED", "end_time": 1}

MakeState = Callable[..., Path]


@pytest.fixture
def make_state(store: MlflowClient) -> MakeState:
    """Create a run with a given status and its local state: checkpoints and, optionally, an uploaded journal."""

    def make(status: str, *entries: Entry, uploaded: bool = True, key: str = "") -> Path:
        run_id = store.create_run("0", tags={names.CACHE_KEY: key} if key else {}).info.run_id
        if status != "RUNNING":
            store.set_terminated(run_id, status)
        folder = run_folder(run_id)
        (folder / names.CHECKPOINTS).mkdir(parents=True)
        for name in ("last", "previous", "best"):
            (folder / names.CHECKPOINTS / f"{name}.safetensors").write_bytes(bytes(500_000))
        if entries:
            journal = Journal(folder)
            for entry in entries:
                journal.append(entry)
            journal.close()
            if uploaded:
                send_pending(folder, lambda entries: None, print)
        return folder

    return make


def printed_about(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run `clean` and return the line it prints about a folder."""
    clean(dry_run=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if str(folder) in line]
    return line


def test_dry_run_lists_sizes_and_ages_and_removes_nothing(
    make_state: MakeState, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_state("FINISHED")
    for path in (folder / names.CHECKPOINTS).iterdir():
        os.utime(path, (0, time.time() - 3 * 86_400))
    for _ in range(2):  # listing must not reset the age
        clean(dry_run=True)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"would remove: run state {folder}, 1.5 MB, 3 d old: its run is FINISHED",
        "1 removable (1.5 MB); to remove: python -m pipeline clean --dry_run false",
    ]
    assert len(list((folder / names.CHECKPOINTS).iterdir())) == 3


@pytest.mark.parametrize(
    ("status", "entries"),
    [("FINISHED", ()), ("KILLED", (OPENED, STAGE, KILLED, UPLOAD)), ("FAILED", (OPENED, KILLED))],
    ids=["finished", "checkpoints uploaded", "not to be resumed"],
)
def test_unneeded_state_is_removed(
    make_state: MakeState, capsys: pytest.CaptureFixture[str], status: str, entries: tuple[Entry, ...]
) -> None:
    folder = make_state(status, *entries)
    assert printed_about(folder, capsys).startswith("removed: ")
    assert not folder.exists()


def test_state_of_deleted_run_is_removed(
    store: MlflowClient, make_state: MakeState, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_state("KILLED")
    store.delete_run(folder.name)
    assert "its run was deleted" in printed_about(folder, capsys) and not folder.exists()


def test_checkpoints_needed_for_resume_are_kept(make_state: MakeState, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_state("KILLED", key="k")
    assert printed_about(folder, capsys).endswith(f"needed by python -m pipeline resume --run_id {folder.name}")
    other = make_state("FINISHED", key="k")
    assert f"run {other.name} finished with the same" in printed_about(folder, capsys)
    assert not folder.exists()


def test_checkpoints_newer_than_uploaded_ones_are_kept(
    make_state: MakeState, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_state("KILLED", OPENED, STAGE, KILLED, UPLOAD, OPENED)
    assert printed_about(folder, capsys).startswith("keep: ") and folder.exists()


def test_pending_uploads_are_kept(make_state: MakeState, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_state("KILLED", OPENED, STAGE, KILLED, UPLOAD, uploaded=False)
    assert "not uploaded yet: python -m pipeline sync" in printed_about(folder, capsys) and folder.exists()


def test_rejected_entries_are_kept(make_state: MakeState, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_state("FINISHED")
    (folder / REJECTED).write_text("{}\n")
    assert "contains entries that the tracking store rejected" in printed_about(folder, capsys) and folder.exists()


def test_state_of_live_process_is_kept(make_state: MakeState, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_state("FINISHED")
    lock = lock_run_state(folder)
    assert "its process is alive" in printed_about(folder, capsys) and folder.exists()
    assert lock is not None
    lock.release()


@pytest.mark.parametrize("name", ["0" * 32, "notes"])
def test_state_of_unknown_run_is_kept(store: MlflowClient, capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder = run_folder(name)
    folder.mkdir(parents=True)
    (folder / "something").write_text("mine")
    assert "its run is not in this tracking store" in printed_about(folder, capsys) and folder.exists()


def test_clean_without_state_creates_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    clean(dry_run=True)
    assert capsys.readouterr().out == "nothing to remove\n" and list(tmp_path.iterdir()) == []


def test_sync_keeps_checkpoints_of_killed_run(
    store: MlflowClient, make_state: MakeState, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_state("KILLED", {**OPENED, "store": store.tracking_uri}, STAGE, uploaded=False)
    (folder / names.FIGURES).mkdir()
    assert sync_runs()
    kept = {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
    assert kept == {"checkpoints/last.safetensors", "checkpoints/previous.safetensors"}


@pytest.mark.slow
def test_clean_keeps_killed_run_until_it_is_deleted(command: Command, tmp_path: Path) -> None:
    kill_when(tmp_path, lambda: journaled_epochs(tmp_path) >= 6, "train_base", *TINY, "--epochs", "400")
    (run,) = runs_of(store_of(tmp_path))
    assert command("sync").returncode == 0
    refused = command("clean", "--dry_run", "perhaps")
    assert refused.returncode == 2 and "'perhaps' is not a valid boolean" in refused.stderr
    spared = command("clean", "--dry_run", "false")
    assert spared.returncode == 0 and f"resume --run_id {run.info.run_id}\nnothing to remove" in spared.stdout, (
        spared.stderr
    )
    store_of(tmp_path).delete_run(run.info.run_id)
    assert "1 removable" in command("clean").stdout
    assert local_state(tmp_path, run.info.run_id).exists()
    assert "1 removed" in command("clean", "--dry_run", "false").stdout
    assert not local_state(tmp_path, run.info.run_id).exists()


def test_state_folder_is_configurable(
    make_state: MakeState, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIPELINE_STATE_DIR", str(tmp_path / "elsewhere"))
    folder = make_state("FINISHED")
    assert folder.is_relative_to(tmp_path / "elsewhere") and state_folder() in folder.parents
    assert printed_about(folder, capsys).startswith("removed: ")
