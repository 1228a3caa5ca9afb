"""The MNIST family (MNIST, Fashion-MNIST, KMNIST, QMNIST) in torchvision's layout; downloaded if missing."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline.data.download import Download, download_blocker
from pipeline.data.identity import content_ids
from pipeline.data.idx import SIDE, read_idx_files
from pipeline.data.preprocessing import Geometry
from pipeline.data.records import Dataset, DatasetSummary, Images
from pipeline.data.sources.arrays import resize_dataset, summarize
from pipeline.data.sources.source import Source, SourceRequest
from pipeline.data.torchvision_import import torchvision_datasets
from pipeline.errors import DataFileError, Fault


@dataclass(frozen=True)
class FamilyMember:
    """One dataset of the family: its class in torchvision and its files in `<data_dir>/<class>/raw`."""

    class_name: str
    files: tuple[str, ...]

    def raw_folder(self, data_dir: str) -> Path:
        """Return the folder of the extracted files."""
        return Path(data_dir) / self.class_name / "raw"

    def missing(self, data_dir: str) -> list[str]:
        """Return the names of the missing files."""
        return [name for name in self.files if not (self.raw_folder(data_dir) / name).is_file()]


_MNIST_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_QMNIST_FILES = tuple(f"qmnist-{p}-{k}" for p in ("train", "test") for k in ("images-idx3-ubyte", "labels-idx2-int"))
FAMILY = {
    "mnist": FamilyMember("MNIST", _MNIST_FILES),
    "fashion_mnist": FamilyMember("FashionMNIST", _MNIST_FILES),
    "kmnist": FamilyMember("KMNIST", _MNIST_FILES),
    "qmnist": FamilyMember("QMNIST", _QMNIST_FILES),
}
NAMED_CLASSES = ("fashion_mnist", "kmnist")  # the classes of the others are digits


def load_family(name: str, data_dir: str) -> Dataset:
    """Load a dataset of the family; download it if it is missing."""
    member = FAMILY[name]
    if missing := member.missing(data_dir):
        _download(name, data_dir, missing)
    folder = member.raw_folder(data_dir)
    states = [(folder / file).stat() for file in member.files]
    return _read_family(name, data_dir, tuple((state.st_mtime_ns, state.st_size) for state in states))


@lru_cache(maxsize=1)  # the steps of a plan read the same files; 55 MB for MNIST
def _read_family(name: str, data_dir: str, states: tuple[tuple[int, int], ...]) -> Dataset:
    """Read and validate the files; `states` (times and sizes) is part of the cache key, so changed files are a miss."""
    member = FAMILY[name]
    folder = member.raw_folder(data_dir)
    arrays = read_idx_files(name, folder, member.files)
    splits = []
    for image_file, label_file in (member.files[:2], member.files[2:]):
        labels = arrays[label_file]  # QMNIST labels have eight columns; the first is the digit
        pixels = arrays[image_file].unsqueeze(1)
        labels = (labels if labels.ndim == 1 else labels[:, 0]).long()
        splits.append(Images(pixels, labels, content_ids(pixels)))
    train, test = splits
    for images, what in ((train, "training"), (test, "test")):
        if len(images.pixels) != len(images.labels) or int(images.labels.max()) > 9 or int(images.labels.min()) < 0:
            remedy = f"Remove the files in {folder} and run again to download them, or copy valid ones there."
            raise DataFileError(Fault("data_dir", data_dir, f"the {what} files of {name} do not match.", remedy))
    classes = getattr(torchvision_datasets(), member.class_name).classes if name in NAMED_CLASSES else range(10)
    geometry, note = Geometry(size=(SIDE, SIDE), channels=1), f"{name}, read from {folder}"
    return Dataset(name, train, test, tuple(map(str, classes)), str(folder.absolute()), note, geometry)


def _download(name: str, data_dir: str, missing: list[str]) -> None:
    """Let torchvision download and verify a dataset.

    Raises:
        DataFileError: The download is impossible or fails.
    """
    member = FAMILY[name]
    kind = getattr(torchvision_datasets(), member.class_name)

    def fetch() -> None:
        for train in (True, False):
            kind(data_dir, train=train, download=True)

    folder = member.raw_folder(data_dir)
    Download(name, data_dir, folder, f"lacks {', '.join(missing)}", _urls(name), fetch).run()


def download_obstacle(name: str, data_dir: str) -> str:
    """Return why a download cannot succeed, or an empty string; takes a few seconds at most."""
    return download_blocker(data_dir, _urls(name))


def _urls(name: str) -> list[str]:
    kind = getattr(torchvision_datasets(), FAMILY[name].class_name)
    if name == "qmnist":
        return [kind.resources["train"][0][0]]
    return [mirror + kind.resources[0][0] for mirror in kind.mirrors]


def _load(request: SourceRequest) -> Dataset:
    return resize_dataset(load_family(request.name, request.data_dir), request)


def _describe(request: SourceRequest) -> DatasetSummary:
    dataset = load_family(request.name, request.data_dir)
    return summarize(dataset, request)


SOURCE = Source(_load, _describe, names=tuple(FAMILY))
