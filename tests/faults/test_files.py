"""Truncated, altered or empty files and full disks: errors name the file, and the last intact version is used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from mlflow import MlflowClient

from pipeline.data.sources.registry import load_dataset
from pipeline.errors import CheckpointError, DataFileError, UserInputError
from pipeline.tracking import names
from pipeline.tracking.base_model import load_base
from pipeline.tracking.base_search import BaseQuery, find_base
from pipeline.tracking.feature_artifacts import find_features, load_features, read_features
from pipeline.tracking.outbox.journal import Journal, read_part
from pipeline.tracking.store import open_store
from pipeline.training.checkpoint import BEST, LAST, PREVIOUS, Checkpoint, CheckpointFolder, load_checkpoint
from pipeline.tuning.search_space import load_space
from pipeline.tuning.study import open_storage
from tests.conftest import ROOT, clean_environment, copy_store, error_lines
from tests.faults.conftest import DAMAGES, Bases, Damage
from tests.test_data import write_idx

Damager = Callable[[Path, Damage], None]
MODEL_FILES = (names.WEIGHTS_FILE, names.ARCHITECTURE_FILE, names.IDENTITIES_FILE)


def a_checkpoint(value: float) -> Checkpoint:
    return Checkpoint({"weights/a": torch.full((400,), value)}, {"epoch": int(value)})


@pytest.fixture
def two_checkpoints(tmp_path: Path) -> CheckpointFolder:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for value in (1.0, 2.0):
        folder.save_last(a_checkpoint(value))
    return folder


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_checkpoint_is_reported_and_previous_one_used(
    two_checkpoints: CheckpointFolder, damaged: Damager, how: str
) -> None:
    damaged(two_checkpoints.path(LAST), DAMAGES[how])
    with pytest.raises(CheckpointError, match=str(two_checkpoints.path(LAST))):
        load_checkpoint(two_checkpoints.path(LAST))
    newest = two_checkpoints.newest()
    assert newest is not None and newest.facts == {"epoch": 1}
    assert newest.group("weights")["a"].tolist() == [1.0] * 400


@pytest.mark.parametrize("how", DAMAGES)
def test_error_names_all_checkpoints_if_none_is_intact(
    two_checkpoints: CheckpointFolder, damaged: Damager, how: str
) -> None:
    for name in (LAST, PREVIOUS):
        damaged(two_checkpoints.path(name), DAMAGES[how])
    with pytest.raises(CheckpointError, match=r"last\.safetensors.*previous\.safetensors"):
        two_checkpoints.newest()


def test_save_after_damage_always_keeps_an_intact_checkpoint(
    two_checkpoints: CheckpointFolder, damaged: Damager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damaged checkpoint replaces the previous one only after the new one is written."""
    damaged(two_checkpoints.path(LAST), DAMAGES["truncated"])
    monkeypatch.setattr(Path, "write_bytes", fail_write)
    with pytest.raises(RuntimeError, match="stopped"):
        two_checkpoints.save_last(a_checkpoint(3.0))
    monkeypatch.undo()
    newest = two_checkpoints.newest()
    assert newest is not None and newest.facts == {"epoch": 1}


def fail_write(path: Path, content: bytes) -> int:
    raise RuntimeError("stopped while writing")


def newest_compatible_base(bases: Bases) -> str:
    """Return the URI of the base that `base=auto` selects for digits 5-9."""
    target = set("56789")
    query = BaseQuery(
        family="mlp", dataset="digits", class_names=tuple("0123456789"), depth=2,
        accepts_classes=lambda classes: not target & set(classes), accepts_preprocessing=lambda preprocessing: True,
    )  # fmt: skip
    base = find_base(bases.client, query)
    assert base is not None
    return base.model_uri


@pytest.mark.parametrize("file", MODEL_FILES)
@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_model_is_rejected_and_older_one_used(
    bases: Bases, damaged: Damager, caplog: pytest.LogCaptureFixture, file: str, how: str
) -> None:
    assert newest_compatible_base(bases) == bases.newer.model_uri
    damaged(bases.extra(bases.newer) / file, DAMAGES[how])
    with pytest.raises(UserInputError, match=f"base={bases.newer.model_uri}: (damaged file {file}|altered: )"):
        load_base(bases.client, bases.newer.model_uri)
    caplog.clear()
    assert newest_compatible_base(bases) == bases.older.model_uri
    (line,) = [message for message in caplog.messages if message.startswith("skipped")]
    assert bases.newer.model_uri in line and ("damaged file" in line or "altered: " in line)


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_features_are_rejected_and_skipped(
    bases: Bases, damaged: Damager, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    wanted = read_features(bases.features_path).fingerprint
    assert find_features(bases.client, wanted) is not None
    damaged(bases.features_path, DAMAGES[how])
    message = rf"features={bases.features.run_id}: damaged file features\.safetensors: "
    with pytest.raises(UserInputError, match=message):
        load_features(bases.client, bases.features.run_id, wanted)
    caplog.clear()
    assert find_features(bases.client, wanted) is None
    (line,) = caplog.messages
    assert "features.safetensors" in line


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """A small dataset in torchvision's Fashion-MNIST layout; returns the folder of its files."""
    draw = np.random.default_rng(0)
    raw = tmp_path / "FashionMNIST" / "raw"
    for part, count in (("train", 60), ("t10k", 30)):
        write_idx(raw / f"{part}-images-idx3-ubyte", draw.integers(0, 256, (count, 28, 28)))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return raw


IDX_DAMAGES: dict[str, Damage] = {
    **{
        how: damage for how, damage in DAMAGES.items() if how != "one bit flipped"
    },  # detected by digests only, which only MNIST has
    "a bit of its type flipped": lambda content: content[:2] + bytes([content[2] ^ 1]) + content[3:],
    "a bit of its size flipped": lambda content: content[:6] + bytes([content[6] ^ 1]) + content[7:],
    "numbers in another shape": lambda content: content[:3] + bytes([2]) + (30).to_bytes(4, "big") * 2 + bytes(900),
    "no images": lambda content: content[:4] + bytes(4) + content[8 : 4 + 4 * content[3]],
}


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("how", IDX_DAMAGES)
def test_error_names_only_the_damaged_data_file(fashion: Path, damaged: Damager, file: str, how: str) -> None:
    damaged(fashion / file, IDX_DAMAGES[how])
    with pytest.raises(DataFileError) as caught:
        load_dataset("fashion_mnist", str(fashion.parent.parent))
    assert [str(fault.value) for fault in caught.value.faults] == [str(fashion / file)]
    assert "Remove it and run again" in str(caught.value)


def test_mismatched_labels_are_rejected(fashion: Path) -> None:
    write_idx(fashion / "t10k-labels-idx1-ubyte", np.arange(29) % 10)
    with pytest.raises(DataFileError, match="the test files of fashion_mnist do not match"):
        load_dataset("fashion_mnist", str(fashion.parent.parent))
    write_idx(fashion / "t10k-labels-idx1-ubyte", np.arange(30) % 10 + 1)
    with pytest.raises(DataFileError, match="do not match"):
        load_dataset("fashion_mnist", str(fashion.parent.parent))


SPACE = b"learning_rate: {low: 0.001, high: 0.01, log: true}\nwidth: {low: 8, high: 24, step: 8}\n"
SPACE_DAMAGES: dict[str, Damage] = {
    "truncated": lambda content: content[:30],
    "zeroes in place of its start": lambda content: bytes(9) + content[9:],
    "a bit of a bracket flipped": lambda content: content.replace(b"{", bytes([ord("{") ^ 1]), 1),
    "not UTF-8": lambda content: content[:5] + b"\xff\xfe" + content[5:],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("how", SPACE_DAMAGES)
def test_damaged_search_space_error_names_the_file(tmp_path: Path, how: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_bytes(SPACE)
    assert set(load_space(str(path), "mlp")) == {"learning_rate", "width"}
    path.write_bytes(SPACE_DAMAGES[how](SPACE))
    with pytest.raises(UserInputError, match=str(path)):
        load_space(str(path), "mlp")


def a_journal(folder: Path) -> Path:
    journal = Journal(folder)
    for number in range(5):
        journal.append({"kind": "tags", "tags": {"number": str(number)}})
    journal.close()
    return journal.path


def test_truncated_journal_keeps_all_complete_entries(tmp_path: Path) -> None:
    path = a_journal(tmp_path)
    content, whole = path.read_bytes(), read_part(path).entries
    lengths = set()
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        found = read_part(path).entries
        assert found == whole[: len(found)] and len(found) == content[:end].count(b"\n")
        lengths.add(len(found))
    assert lengths == {0, 1, 2, 3, 4}


def test_damaged_line_inside_journal_is_reported(tmp_path: Path) -> None:
    path = a_journal(tmp_path)
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2][:10]
    path.write_bytes(b"\n".join(lines))
    part = read_part(path)
    assert [entry["tags"]["number"] for entry in part.entries] == ["0", "1", "3", "4"]
    assert len(part.damaged) == 1 and "journal.jsonl: the line at byte" in part.damaged[0]


@pytest.mark.parametrize("how", ["truncated", "zeroes in place of its start"])
def test_damaged_tracking_store_error_names_the_file(store: MlflowClient, tmp_path: Path, how: str) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(DAMAGES[how](path.read_bytes()))
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    with pytest.raises(UserInputError, match=r"MLFLOW_TRACKING_URI=.*mlflow\.db"):
        open_store()


@pytest.mark.parametrize("how", ["truncated", "zeroes in place of its start"])
def test_damaged_study_storage_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    path = tmp_path / "optuna.db"
    monkeypatch.setenv("PIPELINE_STORAGE", f"sqlite:///{path}")
    optuna.create_study(storage=open_storage())
    with open(path, "rb") as file:
        content = file.read()
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    path.write_bytes(DAMAGES[how](content))
    with pytest.raises(UserInputError, match=r"PIPELINE_STORAGE=.*optuna\.db"):
        open_storage()


SAVE_LARGER_CHECKPOINT = """
import resource, sys, torch
from pathlib import Path
from pipeline.errors import DiskFullError
from pipeline.training.checkpoint import Checkpoint, CheckpointFolder
folder = CheckpointFolder(Path(sys.argv[1]))
for epoch in (1, 2):
    folder.save_last(Checkpoint({"weights/a": torch.ones(1000)}, {"epoch": epoch}))
if sys.argv[2] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    folder.save_last(Checkpoint({"weights/a": torch.ones(1_000_000)}, {"epoch": 3}))
except DiskFullError as error:
    print(error)
"""


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of a given size."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def may_mount() -> bool:
    """Whether this process may mount a file system."""
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return os.geteuid() == 0 and subprocess.run(probe, capture_output=True).returncode == 0


needs_mount = pytest.mark.skipif(not may_mount(), reason="only root with the right to mount can make a full disk")


def assert_failed_save_keeps_checkpoints(folder: Path, limit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAVE_LARGER_CHECKPOINT, str(folder), str(limit)],
        cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(folder) in done.stdout and "MiB free" in done.stdout and "PIPELINE_STATE_DIR" in done.stdout
    kept = {name: load_checkpoint(folder / f"{name}.safetensors").facts["epoch"] for name in (LAST, PREVIOUS)}
    assert kept == {LAST: 2, PREVIOUS: 1}
    assert {path.name for path in folder.iterdir()} == {f"{LAST}.safetensors", f"{PREVIOUS}.safetensors"}


def test_file_size_limit_leaves_earlier_checkpoints_intact(tmp_path: Path) -> None:
    assert_failed_save_keeps_checkpoints(tmp_path / "checkpoints", 100_000)


@needs_mount
def test_full_disk_leaves_earlier_checkpoints_intact(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        assert_failed_save_keeps_checkpoints(disk / "checkpoints", 0)


@needs_mount
@pytest.mark.slow
def test_stage_on_full_disk_fails_cleanly_and_keeps_checkpoints(tmp_path: Path, empty_store: Path) -> None:
    """Space for two checkpoints (five copies of the weights each) and the best weights, but not for a third."""
    copy_store(empty_store, tmp_path)
    words = ["train_base", "--dataset", "digits", "--epochs", "20", "--patience", "20", "--checkpoint_every", "1",
             "--width", "200", "--hidden_layers", "2"]  # fmt: skip
    weights_bytes = 4 * (28 * 28 * 200 + 200 * 200 + 200 * 5 + 405)
    with small_disk(tmp_path / "disk", str(13 * weights_bytes)) as disk:
        done = stage(tmp_path, words, PIPELINE_STATE_DIR=str(disk))
        assert done.returncode == 1
        (line,) = error_lines(done.stderr)
        assert line.startswith("error: No space left on device: ") and str(disk) in line, done.stderr
        assert "PIPELINE_STATE_DIR" in line
        (folder,) = tmp_path.glob("mlruns/*/*/artifacts/checkpoints")  # uploaded when the run failed
        epochs = [load_checkpoint(folder / f"{n}.safetensors").facts["progress"]["epoch"] for n in (LAST, PREVIOUS)]
        assert epochs[0] == epochs[1] + 1 and epochs[1] >= 1
        load_checkpoint(folder / f"{BEST}.safetensors")
    (run,) = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["0"])
    assert run.info.status == "FAILED" and "No space left on device" in run.data.tags[names.NOTE]


@needs_mount
@pytest.mark.slow
def test_full_disk_under_tracking_store_gives_clear_error(tmp_path: Path, empty_store: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        copy_store(empty_store, disk)
        fill(disk / "filler")
        done = stage(disk, ["train_base", "--dataset", "digits", "--epochs", "1"])
        assert done.returncode in (1, 2), done.stderr  # 2: the store's last free pages did not do to open it
        line = done.stderr.strip().splitlines()[-1]  # MLflow's own log lines come first
        assert line.startswith("error: ") and "disk is full" in line and str(disk) in line, done.stderr
        assert "Free some" in line, done.stderr


def fill(path: Path) -> None:
    """Write until no space is left."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def stage(folder: Path, words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a stage in a separate process."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *words], cwd=folder, env=clean_environment(**environment),
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def test_injected_faults_are_all_distinct() -> None:
    kinds = [
        *(("checkpoint", how) for how in DAMAGES),
        *((file, how) for file in MODEL_FILES for how in DAMAGES),
        *(("features", how) for how in DAMAGES),
        *(("idx", how) for how in IDX_DAMAGES),
        *(("space", how) for how in SPACE_DAMAGES),
    ]
    assert len(kinds) == len(set(kinds)) == 5 + 15 + 5 + 8 + 5
