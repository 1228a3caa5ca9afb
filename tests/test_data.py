"""Data sources and splits: file checks, stratified and seeded sampling."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import download
from pipeline.data.idx import idx_fault
from pipeline.data.reachability import any_reachable
from pipeline.data.records import Dataset
from pipeline.data.sources.mnist_family import FAMILY
from pipeline.data.sources.registry import load_dataset
from pipeline.data.torchvision_import import operators_load, torchvision_datasets
from pipeline.errors import DataFileError
from tests.conftest import MNIST_DIR, ROOT


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """A small dataset in torchvision's Fashion-MNIST layout."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 30)):
        raw = tmp_path / "FashionMNIST" / "raw"
        write_idx(raw / f"{part}-images-idx3-ubyte", generator.integers(0, 256, (count, 28, 28)))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return tmp_path


def test_mnist_family_loads_from_torchvision_layout(fashion: Path) -> None:
    dataset = load_dataset("fashion_mnist", str(fashion))
    assert dataset.train.pixels.shape == (60, 1, 28, 28) and dataset.train.pixels.dtype == torch.uint8
    assert dataset.test.labels.shape == (30,) and dataset.test.labels.dtype == torch.int64
    assert dataset.class_names[9] == "Ankle boot"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-7], "truncated"),
        (lambda content: content[:6], "truncated in its header"),
        (lambda content: b"", "not an IDX file"),
        (lambda content: content + b"x", "1 bytes too many"),
        (lambda content: b"PK" + content[2:], "not an IDX file"),
    ],
)
def test_damaged_file_error_names_the_file(fashion: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    path = fashion / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataFileError, match=f"train-labels-idx1-ubyte.*{message}"):
        load_dataset("fashion_mnist", str(fashion))


def test_file_that_differs_from_its_archive_is_rejected(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    path = fashion / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    archive = path.with_name(path.name + ".gz")
    archive.write_bytes(gzip.compress(path.read_bytes()))
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(torchvision_datasets().FashionMNIST, "resources", [(archive.name, md5)])
    load_dataset("fashion_mnist", str(fashion))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataFileError, match="differs from train-labels-idx1-ubyte.gz"):
        load_dataset("fashion_mnist", str(fashion))


@pytest.mark.mnist
def test_single_flipped_bit_in_mnist_is_detected(tmp_path: Path) -> None:
    shutil.copytree(Path(MNIST_DIR) / "MNIST", tmp_path / "MNIST", copy_function=shutil.copyfile)
    path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[5000] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataFileError, match="t10k-images-idx3-ubyte.*altered"):
        load_dataset("mnist", str(tmp_path))
    with pytest.raises(DataFileError, match="altered"):
        load_dataset("auto", str(tmp_path))


@pytest.mark.mnist
def test_mnist_has_published_sizes(mnist: Dataset) -> None:
    assert mnist.train.pixels.shape == (60_000, 1, 28, 28) and mnist.test.pixels.shape == (10_000, 1, 28, 28)
    assert torch.bincount(mnist.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@given(st.binary(max_size=200))
def test_any_bytes_are_valid_idx_or_report_a_fault(content: bytes) -> None:
    fault = idx_fault(content)
    assert isinstance(fault, str) and (fault or content[:2] == b"\0\0")


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "any_reachable", lambda addresses, limit_seconds: False)


def test_auto_falls_back_to_digits_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_network(monkeypatch)
    dataset = load_dataset("auto", str(tmp_path))
    assert (
        dataset.name == "digits" and "not comparable with MNIST" in dataset.note and "cannot be reached" in dataset.note
    )


def test_missing_mnist_error_explains_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_network(monkeypatch)
    with pytest.raises(DataFileError, match=r"cannot be reached.*PIPELINE_DATA_DIR.*dataset=digits needs no download"):
        load_dataset("mnist", str(tmp_path))
    with pytest.raises(DataFileError, match="lacks train-images-idx3-ubyte"):
        load_dataset("auto", str(tmp_path / "gone"), data_dir_is_chosen=True)


def test_unwritable_data_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataFileError, match="not a writable folder"):
        load_dataset("mnist", str(tmp_path / "file" / "data"))


def test_hanging_connection_times_out() -> None:
    import socket

    with socket.socket() as silent:  # accepts connections and never responds
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        assert not any_reachable([f"http://127.0.0.1:{silent.getsockname()[1]}/x"], 1.0)
        assert time.monotonic() - began < 3


def test_digits_are_upsampled_to_28x28(digits: Dataset) -> None:
    assert digits.train.pixels.shape[1:] == (1, 28, 28) and digits.train.pixels.dtype == torch.uint8
    assert len(digits.train.labels) + len(digits.test.labels) == 1797
    assert 200 < int(digits.train.pixels.max()) <= 255


def test_torchvision_imports_despite_mismatched_torch_build() -> None:
    """Operators are declared only if they fail to load; the import works either way."""
    program = (
        "import pipeline.data.torchvision_import as room\n"
        "loads = room.operators_load()\n"
        "room.torchvision_datasets()\n"
        "assert bool(room._declared) is not loads\n"
        "import torch; assert torch.ops.torchvision.nms\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_torchvision_operators_are_available_after_import() -> None:
    torchvision_datasets()
    assert operators_load()


def test_qmnist_labels_come_from_first_column(tmp_path: Path) -> None:
    raw = tmp_path / "QMNIST" / "raw"
    for part, count in (("train", 40), ("test", 20)):
        write_idx(raw / f"qmnist-{part}-images-idx3-ubyte", np.zeros((count, 28, 28)))
        rows = np.full((count, 8), 77, dtype=">i4")
        rows[:, 0] = np.arange(count) % 10
        header = bytes([0, 0, 0x0C, 2]) + count.to_bytes(4, "big") + (8).to_bytes(4, "big")
        (raw / f"qmnist-{part}-labels-idx2-int").write_bytes(header + rows.tobytes())
    dataset = load_dataset("qmnist", str(tmp_path))
    assert dataset.train.labels.tolist() == [n % 10 for n in range(40)] and len(dataset.test.labels) == 20


def test_every_mnist_variant_lists_four_files() -> None:
    assert {len(member.files) for member in FAMILY.values()} == {4}
