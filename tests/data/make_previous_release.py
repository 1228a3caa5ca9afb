"""Generates `previous_release.tar.xz`: a tracking store and local state as written by an earlier release.

    git worktree add ../release <tag>
    PYTHONPATH=../release python tests/data/make_previous_release.py

The archive contains a finished plan run (two arms, two seeds), the local state of a run killed during training, and the
local state of a finished run that could not be uploaded because the store was locked. Absolute paths and the host name
are replaced (see `tests/faults/test_previous_release.py`), files that no test needs are left out.
"""  # fmt: skip

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

ARCHIVE = Path(__file__).with_name("previous_release.tar.xz")
PLAN = """
title: Small plan
description: A plan of the previous release.
profiles:
  quick: {seeds: 2}
arms:
  base: {run: train_base, label: base, params: {model: mlp, classes: 0-4, dataset: digits, width: 16, hidden_layers: 2, epochs: 3, threads: 1}}
  tuned_all:
    run: transfer
    label: all layers fine-tuned
    base: base
    params: {classes: 5-9, dataset: digits, per_class: 20, reuse_layers: 2, unfreeze: 2, epochs: 5, threads: 1}
  scratch:
    run: transfer
    label: from scratch
    base: base
    params: {classes: 5-9, dataset: digits, per_class: 20, reuse_layers: 0, epochs: 5, threads: 1}
questions:
  - key: "1"
    text: Does fine-tuning beat training from scratch?
    kind: compare
    arms: [tuned_all]
    reference: scratch
"""
TRAIN = [
    "train_base", "--dataset", "digits", "--width", "16", "--hidden_layers", "2", "--batch_size", "32",
    "--threads", "1", "--patience", "1000", "--checkpoint_every", "4", "--epochs", "60",
]  # fmt: skip


class Release:
    """Runs commands of the release in a folder and edits what they leave behind."""

    def __init__(self, folder: Path):
        self.folder = folder
        spec = importlib.util.find_spec("pipeline")
        assert spec is not None and spec.origin is not None, "PYTHONPATH must name a checkout of the release"
        self.source = Path(spec.origin).parent.parent

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "pipeline", *words]

    def runs(self) -> list[str]:
        with sqlite3.connect(self.folder / "mlflow.db") as store:
            return [run_id for (run_id,) in store.execute("SELECT run_uuid FROM runs ORDER BY start_time")]

    def start(self, *words: str) -> tuple[subprocess.Popen[bytes], str]:
        known = set(self.runs())
        process = subprocess.Popen(self.command(*words), cwd=self.folder)
        while not (new := [run_id for run_id in self.runs() if run_id not in known]):
            time.sleep(0.05)
        return process, new[0]

    def state(self, run_id: str) -> Path:
        return self.folder / ".pipeline" / "runs" / run_id

    def wait_for_epochs(self, process: subprocess.Popen[bytes], run_id: str, count: int) -> None:
        journal = self.state(run_id) / "journal.jsonl"
        while not journal.exists() or journal.read_text().count('"val/loss"') < count:
            assert process.poll() is None, "the stage ended too early"
            time.sleep(0.01)

    def anonymize(self, text: str) -> str:
        """Replace absolute paths and the host name."""
        host = socket.gethostname()
        names = ((f"'{host}'", "'earlier-host'"), (f'"{host}"', '"earlier-host"'))
        for old, new in ((str(self.folder), "@FOLDER@"), (f"{self.source}/", ""), *names):
            text = text.replace(old, new)
        return text


def make_runs(release: Release) -> dict[str, str]:
    """Run the plan, kill a run, and let another one finish while the store is locked; return their ids."""
    (release.folder / "plan.yaml").write_text(PLAN)
    subprocess.run(release.command("main", "--plan", "plan.yaml"), cwd=release.folder, check=True)
    plan = release.runs()[0]
    process, killed = release.start(*TRAIN)
    release.wait_for_epochs(process, killed, 12)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process, pending = release.start(*TRAIN, "--seed", "1")
    release.wait_for_epochs(process, pending, 3)
    with sqlite3.connect(release.folder / "mlflow.db", isolation_level=None, timeout=60) as store:
        store.execute("BEGIN IMMEDIATE")
        process.wait()
        store.execute("ROLLBACK")
    return {"plan": plan, "killed": killed, "pending": pending}


def pack(release: Release, ids: dict[str, str], packed: Path) -> None:
    """Write everything that the tests need to a folder."""
    with sqlite3.connect(release.folder / "mlflow.db") as store:
        (packed / "mlflow.sql").write_text(release.anonymize("\n".join(store.iterdump())))
    (packed / "ids.json").write_text(json.dumps(ids))
    for run_id in (ids["killed"], ids["pending"]):
        folder = packed / "state" / "runs" / run_id
        left_out = shutil.ignore_patterns("lock", "previous.safetensors")
        shutil.copytree(release.state(run_id), folder, ignore=left_out)
        edit_journal(folder, release.anonymize)
        for model in folder.rglob("model.pt2"):
            remove_paths(model, [str(release.source), sys.prefix])
    report = Path("mlruns", "0", ids["plan"], "artifacts", "report", "study.json")
    (packed / report).parent.mkdir(parents=True)
    (packed / report).write_text(release.anonymize((release.folder / report).read_text()))


def edit_journal(folder: Path, edit: Callable[[str], str]) -> None:
    """Edit a run's journal; the file `arrived` has the number of its bytes that are uploaded, which changes."""
    journal, arrived = folder / "journal.jsonl", folder / "arrived"
    content, uploaded = journal.read_bytes(), int(arrived.read_text())
    head, tail = (edit(part.decode()).encode() for part in (content[:uploaded], content[uploaded:]))
    journal.write_bytes(head + tail)
    arrived.write_text(f"{len(head):020d}")


def remove_paths(model: Path, paths: list[str]) -> None:
    """Overwrite paths in the stack traces of an exported graph with others of the same length."""
    with zipfile.ZipFile(model) as archive:
        items = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(model, "w", zipfile.ZIP_STORED) as archive:
        for info, content in items:
            for path in paths:
                content = content.replace(path.encode(), b"/" + b"x" * (len(path.encode()) - 1))
            archive.writestr(info, content)


def without_owner(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def main() -> None:
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as packed:
        release = Release(Path(work).resolve())
        pack(release, make_runs(release), Path(packed))
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
            archive.add(packed, ".", filter=without_owner)


if __name__ == "__main__":
    main()
