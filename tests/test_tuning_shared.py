"""Tensors that workers share: in an unlinked file, in shared memory or, if that is too small, on disk."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from pipeline.errors import DiskFullError
from pipeline.tuning import shared
from pipeline.tuning.shared import SharedTensors, share_tensors
from pipeline.tuning.workers import start_forkserver
from tests.conftest import clean_environment, copy_store
from tests.faults.test_files import may_mount, small_disk

needs_mount = pytest.mark.skipif(not may_mount(), reason="mounting a small file system needs root")
TENSORS = [torch.rand(7, 3), torch.arange(5), torch.arange(6, dtype=torch.uint8).reshape(2, 3)]


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for /dev/shm with enough space."""
    (tmp_path / "memory").mkdir()
    monkeypatch.setattr(shared, "SHARED_MEMORY", tmp_path / "memory")
    monkeypatch.setenv("PIPELINE_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "memory"


def file_system_of(tensors: SharedTensors) -> int:
    return os.fstat(tensors.file.fileno()).st_dev


def add_one(tensors: SharedTensors, pipe: Connection) -> None:
    """Process target: send the tensors' values, then add one to them."""
    pipe.send([tensor.tolist() for tensor in tensors.tensors])
    for tensor in tensors.tensors:
        tensor += 1


def test_child_process_reads_and_writes_shared_tensors(memory: Path) -> None:
    context = start_forkserver()
    ours, theirs = multiprocessing.Pipe()
    with share_tensors(TENSORS).file as file:
        tensors = SharedTensors(file, [(tensor.dtype, tensor.shape) for tensor in TENSORS])
        process = context.Process(target=add_one, args=(tensors, theirs))
        process.start()
        assert ours.recv() == [tensor.tolist() for tensor in TENSORS]
        process.join()
        assert all(torch.equal(mine, given + 1) for mine, given in zip(tensors.tensors, TENSORS, strict=True))


def test_shared_file_is_unlinked(memory: Path) -> None:
    tensors = share_tensors(TENSORS)
    assert list(memory.iterdir()) == [] and os.fstat(tensors.file.fileno()).st_nlink == 0


@needs_mount
def test_tensors_larger_than_shared_memory_go_to_state_folder(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "small", "16m") as small:
        monkeypatch.setattr(shared, "SHARED_MEMORY", small)
        fits, too_large = torch.rand(2**20), torch.rand(3 * 2**20)
        assert file_system_of(share_tensors([fits])) == small.stat().st_dev
        found = share_tensors([too_large])
        assert file_system_of(found) == (tmp_path / "state").stat().st_dev
        assert torch.equal(found.tensors[0], too_large)


@needs_mount
def test_full_shared_memory_falls_back_to_state_folder(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "small", "1m") as small:
        monkeypatch.setattr(shared, "SHARED_MEMORY", small)
        monkeypatch.setattr(shared, "_free_shared_memory", lambda: 2**30)
        found = share_tensors([torch.ones(2**20)])
        assert file_system_of(found) == (tmp_path / "state").stat().st_dev
        assert os.statvfs(small).f_bfree == os.statvfs(small).f_blocks


@needs_mount
def test_full_state_folder_is_reported(memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "small", "1m") as small:
        monkeypatch.setattr(shared, "SHARED_MEMORY", small)
        monkeypatch.setenv("PIPELINE_STATE_DIR", str(small))
        with pytest.raises(DiskFullError, match=f"{small}.*PIPELINE_STATE_DIR"):
            share_tensors([torch.ones(2**20)])


@pytest.mark.slow
@needs_mount
def test_tune_runs_with_little_shared_memory(tmp_path: Path, empty_store: Path) -> None:
    """1 MiB for 1.7 MiB of images, like Docker's 64 MiB for MNIST."""
    copy_store(empty_store, tmp_path)
    words = ["tune", "--dataset", "digits", "--classes", "0-2", "--folds", "2", "--trials", "2", "--workers", "2",
             "--refit", "false", "--fold_epochs", "1"]  # fmt: skip
    mount = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$0" -m pipeline "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, sys.executable, *words], cwd=tmp_path, env=clean_environment(),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0 and "best of 2 trials" in done.stdout, done.stdout
    assert [path for path in (tmp_path / ".pipeline").rglob("*") if path.is_file()] == []
