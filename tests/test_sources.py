"""Sources by name: folders, torchvision's datasets in its layout on disk, and arrays in another geometry."""

from __future__ import annotations

import csv
import inspect
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from pipeline.data import download
from pipeline.data.decode import resize
from pipeline.data.preprocessing import Geometry, GeometryRequest
from pipeline.data.records import Dataset
from pipeline.data.sources import arrays
from pipeline.data.sources.registry import describe_dataset, find_source, load_dataset
from pipeline.data.sources.torchvision_sets import SETS
from pipeline.data.torchvision_import import torchvision_datasets
from pipeline.errors import DataFileError, UserInputError
from pipeline.params import TORCHVISION_DATASETS, is_dataset
from pipeline.params.data import suggest_dataset
from tests.test_data import write_idx

pytestmark = pytest.mark.usefixtures("state")
GENERATOR = np.random.default_rng(0)


def write_photos(root: Path, *names: str, color: tuple[int, int, int] | None = None) -> None:
    """Write images of different sizes."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        values = GENERATOR.integers(0, 256, (20 + number, 30, 3), np.uint8)
        Image.fromarray(values).save(root / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of color images of various sizes."""
    for number, name in enumerate(("cats", "dogs")):
        (tmp_path / name).mkdir()
        for index in range(10):
            Image.new("RGB", (20 + index, 40), (100 * number, index, 0)).save(tmp_path / name / f"{index}.png")
    return tmp_path


def test_image_folder_loads_in_color_by_default(folder: Path) -> None:
    dataset = load_dataset(f"folder:{folder}", "data")
    assert dataset.class_names == ("cats", "dogs") and dataset.geometry == Geometry(size=(64, 64), channels=3)
    assert len(dataset.train) + len(dataset.test) == 20 and dataset.train.pixels.shape[1:] == (3, 64, 64)
    assert "20 images in" in dataset.note and "64x64 RGB" in dataset.note


def test_broken_image_error_names_the_file(folder: Path) -> None:
    (folder / "cats" / "3.png").write_bytes((folder / "cats" / "3.png").read_bytes()[:40])
    with pytest.raises(DataFileError, match=r"3\.png: cannot be read as an image"):
        load_dataset(f"folder:{folder}", "data")


def test_folder_without_images_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="not a folder"):
        load_dataset(f"folder:{tmp_path}/none", "data")
    with pytest.raises(DataFileError, match="one sub-folder"):
        load_dataset(f"folder:{tmp_path}", "data")


def test_official_splits_of_a_folder_are_used(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        for name in ("ants", "bees"):
            write_photos(tmp_path, *(f"{split}/{name}/{number}.jpg" for number in range(count)))
    dataset = load_dataset(f"folder:{tmp_path}", "data")
    assert dataset.class_names == ("ants", "bees") and dataset.validation is not None
    assert [len(images) for images in (dataset.train, dataset.validation, dataset.test)] == [12, 6, 4]


def test_copy_of_a_test_image_is_dropped_from_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "test"):
        for name in ("ants", "bees"):
            write_photos(tmp_path, *(f"{split}/{name}/{number}.png" for number in range(4)))
    (tmp_path / "train" / "ants" / "copy.png").write_bytes((tmp_path / "test" / "bees" / "0.png").read_bytes())
    dataset = load_dataset(f"folder:{tmp_path}", "data")
    assert len(dataset.train) == 8 and not set(dataset.train.ids.tolist()) & set(dataset.test.ids.tolist())
    assert "1 training images excluded: also in the validation or test split" in caplog.text


def test_summary_of_a_folder_needs_no_decoding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = describe_dataset(f"folder:{folder}", "data")
    assert not before.exact and before.train_counts == (8, 8) and before.test_counts == (2, 2)
    dataset = load_dataset(f"folder:{folder}", "data")
    after = describe_dataset(f"folder:{folder}", "data")
    assert after.exact and after.geometry == before.geometry == dataset.geometry
    assert after.train_counts == tuple(torch.bincount(dataset.train.labels).tolist())
    assert after.test_counts == tuple(torch.bincount(dataset.test.labels).tolist())
    assert after.class_names == dataset.class_names and not after.official_splits


def test_summary_of_digits_counts_both_splits(digits: Dataset) -> None:
    summary = describe_dataset("digits", "data", geometry=Geometry(size=(32, 32), channels=3))
    assert sum(summary.train_counts) + sum(summary.test_counts) == 1797 and summary.exact
    assert summary.geometry.size == (32, 32) and summary.class_names == digits.class_names


def test_arrays_keep_their_pixels_in_their_own_geometry(digits: Dataset) -> None:
    assert digits.geometry == Geometry(size=(28, 28), channels=1)
    again = load_dataset("digits", "data", geometry=GeometryRequest(image_size=28, channels=1, resize="pad"))
    assert torch.equal(again.train.pixels, digits.train.pixels) and again.geometry.resize == "pad"


@pytest.mark.parametrize("stored", [False, True])
def test_arrays_are_resized_to_another_geometry(digits: Dataset, monkeypatch: pytest.MonkeyPatch, stored: bool) -> None:
    if stored:
        monkeypatch.setattr(arrays, "STORED_BYTES", 0)
    geometry = Geometry(size=(32, 32), channels=3)
    dataset = load_dataset("digits", "data", geometry=geometry)
    assert torch.equal(dataset.train.ids, digits.train.ids) and torch.equal(dataset.test.labels, digits.test.labels)
    for images, originals in ((dataset.train, digits.train), (dataset.test, digits.test)):
        expected = [resize(image.permute(1, 2, 0).numpy(), geometry) for image in originals.pixels]
        assert np.array_equal(images.pixels.numpy(), np.stack(expected))
    assert "resized to 32x32, RGB" in dataset.note


def test_large_resized_arrays_are_stored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "STORED_BYTES", 0)
    first = load_dataset("digits", "data", geometry=Geometry(size=(9, 9), channels=1))
    monkeypatch.setattr(arrays, "resize", lambda *_: pytest.fail("images were resized again"))
    second = load_dataset("digits", "data", geometry=Geometry(size=(9, 9), channels=1))
    assert torch.equal(first.test.pixels, second.test.pixels)


def test_unknown_source_error_lists_the_sources() -> None:
    with pytest.raises(UserInputError, match=r"dataset=nothing: is not one of digits.*mnist.*folder:\.\.\."):
        load_dataset("nothing", "data")


def test_every_listed_torchvision_dataset_can_be_read() -> None:
    assert set(SETS) == set(TORCHVISION_DATASETS)
    for name, spec in SETS.items():
        assert is_dataset(f"torchvision:{name}") and find_source(f"torchvision:{name}")
        accepted = inspect.signature(getattr(torchvision_datasets(), spec.kind).__init__).parameters
        for arguments in spec.splits.values():
            unknown = set(arguments) - set(accepted) - ({"train"} if spec.kind == "EMNIST" else set())
            assert not unknown, (name, unknown)


@pytest.mark.parametrize(
    ("misspelled", "suggestion"),
    [
        ("torchvision:cifar10", "Did you mean torchvision:CIFAR10?"),
        ("cifar-100", "Did you mean torchvision:CIFAR100?"),
        ("torchvision:EMNIST", "Did you mean torchvision:EMNIST/"),
        ("mnits", "Did you mean mnist?"),
    ],
)
def test_misspelled_dataset_gets_a_suggestion(misspelled: str, suggestion: str) -> None:
    assert not is_dataset(misspelled) and suggest_dataset(misspelled).startswith(suggestion)


def unverified(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Accept files that differ from the published ones."""
    monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda path, md5=None: Path(path).is_file())


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small CIFAR-10 in torchvision's layout."""
    torchvision_datasets()
    unverified(monkeypatch, "cifar")
    root = tmp_path / "cifar-10-batches-py"
    root.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        batch = {"data": GENERATOR.integers(0, 256, (20, 3072), np.uint8), "labels": [n % 10 for n in range(20)]}
        (root / name).write_bytes(pickle.dumps(batch))
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {n}" for n in range(10)]}))
    return tmp_path


def test_cifar_is_read_from_torchvision_layout(cifar: Path) -> None:
    dataset = load_dataset("torchvision:CIFAR10", str(cifar))
    assert dataset.train.pixels.shape == (100, 3, 32, 32) and dataset.test.pixels.shape == (20, 3, 32, 32)
    assert dataset.class_names[3] == "class 3" and dataset.geometry == Geometry(size=(32, 32), channels=3)
    batch = pickle.loads((cifar / "cifar-10-batches-py" / "test_batch").read_bytes())
    assert np.array_equal(dataset.test.pixels.numpy().reshape(20, -1), batch["data"])
    assert dataset.test.labels.tolist() == batch["labels"]


def test_test_images_are_dropped_from_torchvision_training_split(cifar: Path) -> None:
    path = cifar / "cifar-10-batches-py" / "test_batch"
    batch = pickle.loads(path.read_bytes())
    batch["data"][0] = pickle.loads(path.with_name("data_batch_1").read_bytes())["data"][7]
    path.write_bytes(pickle.dumps(batch))
    dataset = load_dataset("torchvision:CIFAR10", str(cifar))
    assert len(dataset.train) == 99 and "1 training images excluded: also in the test split" in dataset.note


def test_missing_torchvision_dataset_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "any_reachable", lambda urls, limit_seconds: False)
    with pytest.raises(
        DataFileError, match=r"torchvision:CIFAR10 is not available .*cannot be reached.*PIPELINE_DATA_DIR"
    ):
        load_dataset("torchvision:CIFAR10", str(tmp_path))


def test_altered_cifar_is_not_unpickled(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(download, "any_reachable", lambda urls, limit_seconds: False)
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("an unverified file was unpickled"))
    with pytest.raises(DataFileError, match="has no valid copy: Dataset not found or corrupted"):
        load_dataset("torchvision:CIFAR10", str(cifar))


def test_emnist_letters_are_upright_and_start_with_a(tmp_path: Path) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    pixels = GENERATOR.integers(0, 256, (52, 28, 28))
    for split in ("train", "test"):
        write_idx(raw / f"emnist-letters-{split}-images-idx3-ubyte", pixels if split == "train" else 255 - pixels)
        write_idx(raw / f"emnist-letters-{split}-labels-idx1-ubyte", np.arange(52) % 26 + 1)
    dataset = load_dataset("torchvision:EMNIST/letters", str(tmp_path))
    assert dataset.class_names[0] == "a" and len(dataset.class_names) == 26
    assert dataset.train.labels[:3].tolist() == [0, 1, 2]
    assert np.array_equal(dataset.train.pixels[5, 0].numpy(), pixels[5].T)


def test_svhn_is_read_from_torchvision_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision_datasets()
    unverified(monkeypatch, "svhn")
    for split in ("train", "test"):
        images = GENERATOR.integers(0, 256, (32, 32, 3, 20), np.uint8)
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": images, "y": np.arange(20).reshape(-1, 1) % 10 + 1})
    dataset = load_dataset("torchvision:SVHN", str(tmp_path))
    assert np.array_equal(dataset.test.pixels[4].numpy(), images[..., 4].transpose(2, 0, 1))
    assert dataset.test.labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] and dataset.class_names[9] == "9"


def test_flowers_have_three_official_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision_datasets()
    unverified(monkeypatch, "flowers102")
    root, count = tmp_path / "flowers-102", 102
    write_photos(root, *(f"jpg/image_{number:05}.jpg" for number in range(1, 4 * count + 1)))
    ids = np.arange(1, 4 * count + 1)
    scipy.io.savemat(root / "imagelabels.mat", {"labels": (ids - 1) % count + 1})
    splits = {"trnid": ids[: 2 * count], "valid": ids[2 * count : 3 * count], "tstid": ids[3 * count :]}
    scipy.io.savemat(root / "setid.mat", splits)
    dataset = load_dataset("torchvision:Flowers102", str(tmp_path), geometry=GeometryRequest(image_size=16))
    assert dataset.validation is not None and len(dataset.class_names) == count
    assert [len(images) for images in (dataset.train, dataset.validation, dataset.test)] == [204, 102, 102]
    assert dataset.train.pixels.shape[1:] == (3, 16, 16) and dataset.class_names[0] == "pink primrose"


def test_pets_are_read_from_torchvision_layout(tmp_path: Path) -> None:
    root = tmp_path / "oxford-iiit-pet"
    lines = {
        split: [
            f"{name}_{split}{n} {label} 1 1" for label, name in enumerate(("Abyssinian", "beagle"), 1) for n in range(3)
        ]
        for split in ("trainval", "test")
    }
    for split, entries in lines.items():
        write_photos(root / "images", *(f"{line.split()[0]}.jpg" for line in entries))
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{split}.txt").write_text("\n".join(entries) + "\n")
    dataset = load_dataset("torchvision:OxfordIIITPet", str(tmp_path))
    assert dataset.class_names == ("Abyssinian", "Beagle") and len(dataset.train) == len(dataset.test) == 6


def test_traffic_signs_are_numbered(tmp_path: Path) -> None:
    root = tmp_path / "gtsrb"
    for label in range(43):
        write_photos(root / "GTSRB" / "Training" / f"{label:05}", *(f"{n}.ppm" for n in range(2)))
    write_photos(root / "GTSRB" / "Final_Test" / "Images", *(f"{label:05}.ppm" for label in range(43)))
    with (root / "GT-final_test.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["Filename", "ClassId"])
        writer.writerows([f"{label:05}.ppm", label] for label in range(43))
    dataset = load_dataset("torchvision:GTSRB", str(tmp_path), geometry=Geometry(size=(16, 16), channels=1))
    assert dataset.class_names[7] == "07" and torch.bincount(dataset.test.labels).tolist() == [1] * 43


def test_dataset_without_official_splits_is_split_by_content(tmp_path: Path) -> None:
    for name in ("Forest", "River"):
        write_photos(tmp_path / "eurosat" / "2750" / name, *(f"{name}_{n}.jpg" for n in range(20)))
    dataset = load_dataset("torchvision:EuroSAT", str(tmp_path))
    assert dataset.class_names == ("Forest", "River") and len(dataset.train) + len(dataset.test) == 40
    assert torch.bincount(dataset.test.labels).min() >= 1
    assert not describe_dataset("torchvision:EuroSAT", str(tmp_path)).official_splits


def test_missing_file_of_a_torchvision_dataset_is_named(tmp_path: Path) -> None:
    (tmp_path / "food-101" / "meta").mkdir(parents=True)
    (tmp_path / "food-101" / "images").mkdir()
    for split in ("train", "test"):
        listed = {"pizza": [f"pizza/{split}"], "sushi": [f"sushi/{split}"]}
        (tmp_path / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(listed))
    with pytest.raises(DataFileError, match=r"food-101/images/pizza/train\.jpg of torchvision:Food101 cannot be read"):
        load_dataset("torchvision:Food101", str(tmp_path))
