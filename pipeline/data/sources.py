"""Where images come from: the MNIST family, scikit-learn's bundled digits, a folder of images.

Every source delivers uint8 images (N, C, H, W), int64 labels (N,), and a test part that is official or cut once
with a fixed seed. Files are checked before they are trained on. Splitting comes after, in `splits.py`.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from pipeline.data.idx import SIDE, read_idx_files
from pipeline.data.image_file import read_grey_image
from pipeline.data.torchvision_import import torchvision_datasets
from pipeline.errors import DataFileError, Fault
from pipeline.params import FOLDER_PREFIX

TEST_FRACTION = 0.2  # of sources that have no official test part
TEST_SEED = 20_210_702  # fixed: the test part of such a source never depends on a run's seed
NETWORK_LIMIT_SECONDS = 5.0  # to find out whether any server answers
DOWNLOAD_STALL_SECONDS = 30.0  # without a byte, after which a download is given up


@dataclass(frozen=True)
class Images:
    """Labelled images in memory.

    Attributes:
        pixels: uint8 (N, C, H, W), 0-255.
        labels: int64 (N,), class numbers of the data set.
    """

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Dataset:
    """A data set as its source delivers it.

    Attributes:
        name: `mnist`, `digits`, `folder:PATH`, ...
        train: What may be trained and validated on.
        test: What only the final evaluation reads.
        class_names: The name of class k at position k.
        source: Where its files lie: a path, or the name of the package that brings them.
        note: How it was chosen and where it came from, in words.
    """

    name: str
    train: Images
    test: Images
    class_names: tuple[str, ...]
    source: str
    note: str


@dataclass(frozen=True)
class FamilyMember:
    """One data set of the MNIST family: its class in torchvision and its files under `<data_dir>/<class>/raw`."""

    class_name: str
    files: tuple[str, ...]

    def raw_folder(self, data_dir: str) -> Path:
        """The folder in which torchvision keeps the extracted files."""
        return Path(data_dir) / self.class_name / "raw"

    def missing(self, data_dir: str) -> list[str]:
        """The files that are not there."""
        return [name for name in self.files if not (self.raw_folder(data_dir) / name).is_file()]


_MNIST_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_QMNIST_FILES = tuple(f"qmnist-{p}-{k}" for p in ("train", "test") for k in ("images-idx3-ubyte", "labels-idx2-int"))
FAMILY = {
    "mnist": FamilyMember("MNIST", _MNIST_FILES),
    "fashion_mnist": FamilyMember("FashionMNIST", _MNIST_FILES),
    "kmnist": FamilyMember("KMNIST", _MNIST_FILES),
    "qmnist": FamilyMember("QMNIST", _QMNIST_FILES),
}
NAMED_CLASSES = ("fashion_mnist", "kmnist")  # those of the others are digits


def load_dataset(name: str, data_dir: str, *, data_dir_is_chosen: bool = False) -> Dataset:
    """Return a data set in memory, downloading it first where it is not on disk.

    Args:
        name: A name that `params.DataChoice.dataset` accepts.
        data_dir: Where data sets lie, in torchvision's layout.
        data_dir_is_chosen: Whether the user named that folder; then `auto` does not pass over a missing one.

    Raises:
        DataFileError: Files are missing and cannot be downloaded, or are truncated, altered or unreadable.
    """
    if name == "auto":
        return _load_auto(data_dir, data_dir_is_chosen=data_dir_is_chosen)
    if name.startswith(FOLDER_PREFIX):
        return _load_folder(name)
    if name == "digits":
        return _load_digits("the digits bundled with scikit-learn, 8x8 pixels brought to 28x28")
    return _load_family(name, data_dir)


def _load_auto(data_dir: str, *, data_dir_is_chosen: bool) -> Dataset:
    """MNIST where there is one to be had, else the bundled digits, and the note says which and why."""
    folder = FAMILY["mnist"].raw_folder(data_dir)
    if len(FAMILY["mnist"].missing(data_dir)) < len(_MNIST_FILES):
        return _load_family("mnist", data_dir)
    if data_dir_is_chosen and not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        return _load_family("mnist", data_dir)  # missing or not writable: refused there, unless it can be downloaded
    reason = _why_not_downloadable("mnist", data_dir)
    if not reason:
        return _load_family("mnist", data_dir)
    return _load_digits(
        f"dataset=auto took the digits bundled with scikit-learn (1,797 images of 8x8, brought to 28x28), because "
        f"MNIST is not under {folder} and {reason}. Figures on them are not MNIST's"
    )


def _load_family(name: str, data_dir: str) -> Dataset:
    member = FAMILY[name]
    if missing := member.missing(data_dir):
        _download(name, data_dir, missing)
    folder = member.raw_folder(data_dir)
    states = [(folder / file).stat() for file in member.files]
    return _read_family(name, data_dir, tuple((state.st_mtime_ns, state.st_size) for state in states))


@lru_cache(maxsize=1)  # the steps of a study read the same files; 55 MB for MNIST
def _read_family(name: str, data_dir: str, states: tuple[tuple[int, int], ...]) -> Dataset:
    """Check and read a data set's files; their times and sizes are asked for so that changed ones are read again."""
    member = FAMILY[name]
    folder = member.raw_folder(data_dir)
    numbers = read_idx_files(name, folder, member.files)
    parts = []
    for image_file, label_file in (member.files[:2], member.files[2:]):
        own = numbers[label_file]  # QMNIST's have eight columns, of which the first is the digit
        parts.append(Images(numbers[image_file].unsqueeze(1), (own if own.ndim == 1 else own[:, 0]).long()))
    train, test = parts
    for images, what in ((train, "training"), (test, "test")):
        if len(images.pixels) != len(images.labels) or int(images.labels.max()) > 9 or int(images.labels.min()) < 0:
            raise DataFileError(
                Fault("data_dir", data_dir, f"the {what} files of {name} do not fit each other.", _refetch(folder))
            )
    words = getattr(torchvision_datasets(), member.class_name).classes if name in NAMED_CLASSES else range(10)
    class_names = tuple(map(str, words))
    return Dataset(name, train, test, class_names, str(folder.absolute()), f"{name}, read from {folder}")


def _download(name: str, data_dir: str, missing: list[str]) -> None:
    """Let torchvision download and check a data set; say what to do where that cannot work."""
    member = FAMILY[name]
    folder = member.raw_folder(data_dir)
    if reason := _why_not_downloadable(name, data_dir):
        raise DataFileError(
            Fault(
                "data_dir",
                data_dir,
                f"{name} is not there ({folder} lacks {', '.join(missing)}) and {reason}.",
                "Put the extracted files there, or set PIPELINE_DATA_DIR to where they are; dataset=digits needs none.",
            )
        )
    print(f"downloading {name} to {folder}", flush=True)
    kind = getattr(torchvision_datasets(), member.class_name)
    before = socket.getdefaulttimeout()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / ".lock"):  # two first runs must not extract into the same files
            socket.setdefaulttimeout(DOWNLOAD_STALL_SECONDS)
            for train in (True, False):
                kind(data_dir, train=train, download=True)
    except (OSError, RuntimeError, EOFError) as error:
        why = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise DataFileError(
            Fault("dataset", name, f"could not be downloaded: {why}.", "Try again; dataset=digits needs no download.")
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _why_not_downloadable(name: str, data_dir: str) -> str:
    """Return why a download cannot succeed, or an empty string; takes at most `NETWORK_LIMIT_SECONDS`."""
    existing = Path(data_dir).absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return f"{existing} is not a folder that can be written to"
    kind = getattr(torchvision_datasets(), FAMILY[name].class_name)
    addresses = [mirror + kind.resources[0][0] for mirror in kind.mirrors] if name != "qmnist" else []
    addresses = addresses or [kind.resources["train"][0][0]]
    if any_reachable(addresses, NETWORK_LIMIT_SECONDS):
        return ""
    return "its servers cannot be reached from here"


def any_reachable(addresses: list[str], limit_seconds: float) -> bool:
    """Whether one of some URLs answers in time; look-ups that hang are left behind in daemon threads."""
    deadline = time.monotonic() + limit_seconds
    answered = threading.Event()
    finished = threading.Semaphore(0)

    def ask(address: str) -> None:
        try:
            request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "pytorch/vision"})
            with urllib.request.urlopen(request, timeout=limit_seconds):
                answered.set()
        except urllib.error.HTTPError:
            pass
        except (OSError, ValueError):
            pass
        finally:
            finished.release()

    for address in addresses:
        threading.Thread(target=ask, args=(address,), daemon=True).start()
    for _ in addresses:
        if answered.is_set() or not finished.acquire(timeout=max(0.0, deadline - time.monotonic())):
            break
    return answered.is_set()


def _refetch(folder: Path) -> str:
    return f"Remove the files under {folder} and run again to download them, or copy good ones there."


def _load_digits(note: str) -> Dataset:
    """The 1,797 digits of scikit-learn, enlarged to 28x28 so that they fit networks for MNIST."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float().unsqueeze(1) * (255 / 16)
    enlarged = torch.nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    pixels = enlarged.round().clamp(0, 255).to(torch.uint8)
    train, test = _cut_test(Images(pixels, torch.from_numpy(bunch.target).long()))
    return Dataset("digits", train, test, tuple(map(str, range(10))), "sklearn.datasets.load_digits", note)


def _load_folder(name: str) -> Dataset:
    """Images in sub-folders, one a class, grey and resized to 28x28."""
    path = Path(name.removeprefix(FOLDER_PREFIX)).expanduser()
    if not path.is_dir():
        raise DataFileError(
            Fault("dataset", name, f"{path} is not a folder.", "Give folder:PATH with one sub-folder a class.")
        )
    try:
        listing = torchvision_datasets().ImageFolder(str(path))
    except FileNotFoundError as error:
        raise DataFileError(
            Fault(
                "dataset",
                name,
                f"must hold one sub-folder of images a class: {error}.",
                "Add images or remove the empty sub-folder.",
            )
        ) from None
    pixels = torch.stack([read_grey_image(Path(file)) for file, _ in listing.samples])
    images = Images(pixels, torch.tensor([label for _, label in listing.samples]))
    few = [listing.classes[k] for k, count in enumerate(torch.bincount(images.labels).tolist()) if count < 3]
    if few:
        raise DataFileError(
            Fault(
                "dataset",
                name,
                f"a class needs at least 3 images (train, validation, test); too few in {', '.join(few)}.",
                "Add images.",
            )
        )
    train, test = _cut_test(images)
    return Dataset(
        name,
        train,
        test,
        tuple(listing.classes),
        str(path.absolute()),
        f"{len(pixels)} images under {path}, grey, 28x28",
    )


def _cut_test(images: Images) -> tuple[Images, Images]:
    from pipeline.data.splits import stratified_cut

    rest, test = stratified_cut(images.labels, TEST_FRACTION, TEST_SEED, "test")
    return tuple(Images(images.pixels[part], images.labels[part]) for part in (rest, test))  # type: ignore[return-value]
