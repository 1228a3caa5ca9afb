"""`torchvision:NAME`: torchvision's image-classification datasets; downloaded if missing.

To add one, add a line to `SETS`, and its name to `TORCHVISION_DATASETS` in `params/data.py`.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.data.download import Download
from pipeline.data.file_splits import concatenate_tables
from pipeline.data.folder_listing import FileTable
from pipeline.data.identity import content_ids
from pipeline.data.preprocessing import Geometry
from pipeline.data.records import Dataset, DatasetSummary, Images
from pipeline.data.sources.arrays import resize_dataset, summarize
from pipeline.data.sources.files import FileSource
from pipeline.data.sources.source import Source, SourceRequest
from pipeline.data.torchvision_import import torchvision_datasets
from pipeline.errors import DataFileError, Fault
from pipeline.params import TORCHVISION_PREFIX

NO_CLASS = "N/A"  # placeholder for class 0 of EMNIST letters, whose labels start at 1
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class TorchvisionSet:
    """How to read one dataset.

    Attributes:
        kind: Name of its class in `torchvision.datasets`.
        splits: Constructor arguments per split; the only key is `all` without an official test split.
        images: Attribute with the images: an array, paths, or (path, class index) pairs.
        labels: Attribute with the class indices; empty if `images` contains pairs.
        url: Address of the server, probed before a download.
        layout: Order of the dimensions, if the images are an array.
        class_names: Class names, if the attribute `classes` does not have them.
    """

    kind: str
    splits: Mapping[str, Arguments]
    images: str
    labels: str
    url: str
    layout: str = "NHWC"
    class_names: tuple[str, ...] = field(default=())


def _by_flag(**more: str) -> dict[str, Arguments]:
    return {"train": {"train": True, **more}, "test": {"train": False, **more}}


def _by_name(**names: str) -> dict[str, Arguments]:
    return {split: {"split": name} for split, name in names.items()}


TRAIN_TEST = _by_name(train="train", test="test")
TRAIN_VAL_TEST = _by_name(train="train", validation="val", test="test")
DIGITS = tuple(map(str, range(10)))
OXFORD, CLIP, SIGNS = "https://www.robots.ox.ac.uk/~vgg/data/", "https://openaipublic.azureedge.net/clip/data/", 43
EMNIST_SPLITS = ("balanced", "bymerge", "byclass", "letters", "digits", "mnist")
EMNIST_URL = "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip"

SETS = {
    "CIFAR10": TorchvisionSet("CIFAR10", _by_flag(), "data", "targets", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "CIFAR100": TorchvisionSet(
        "CIFAR100", _by_flag(), "data", "targets", "https://www.cs.toronto.edu/~kriz/cifar.html"
    ),
    "SVHN": TorchvisionSet(
        "SVHN", TRAIN_TEST, "data", "labels", "http://ufldl.stanford.edu/housenumbers/", "NCHW", DIGITS
    ),
    "STL10": TorchvisionSet("STL10", TRAIN_TEST, "data", "labels", "http://ai.stanford.edu/~acoates/stl10/", "NCHW"),
    "USPS": TorchvisionSet("USPS", _by_flag(), "data", "targets", "https://www.csie.ntu.edu.tw/~cjlin/", "NHW", DIGITS),
    **{
        f"EMNIST/{split}": TorchvisionSet("EMNIST", _by_flag(split=split), "data", "targets", EMNIST_URL, "NWH")
        for split in EMNIST_SPLITS
    },
    "Flowers102": TorchvisionSet("Flowers102", TRAIN_VAL_TEST, "_image_files", "_labels", f"{OXFORD}flowers/102/"),
    "OxfordIIITPet": TorchvisionSet(
        "OxfordIIITPet", _by_name(train="trainval", test="test"), "_images", "_labels", f"{OXFORD}pets/"
    ),
    "Food101": TorchvisionSet(
        "Food101", TRAIN_TEST, "_image_files", "_labels", "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz"
    ),
    "DTD": TorchvisionSet("DTD", TRAIN_VAL_TEST, "_image_files", "_labels", f"{OXFORD}dtd/"),
    "FGVCAircraft": TorchvisionSet(
        "FGVCAircraft", TRAIN_VAL_TEST, "_image_files", "_labels", f"{OXFORD}fgvc-aircraft/"
    ),
    "GTSRB": TorchvisionSet(
        "GTSRB", TRAIN_TEST, "_samples", "", "https://sid.erda.dk/", class_names=tuple(f"{n:02}" for n in range(SIGNS))
    ),
    "StanfordCars": TorchvisionSet(
        "StanfordCars", TRAIN_TEST, "_samples", "", "https://ai.stanford.edu/~jkrause/cars/"
    ),
    "Country211": TorchvisionSet(
        "Country211", _by_name(train="train", validation="valid", test="test"), "samples", "", f"{CLIP}country211.tgz"
    ),
    "RenderedSST2": TorchvisionSet("RenderedSST2", TRAIN_VAL_TEST, "_samples", "", f"{CLIP}rendered-sst2.tgz"),
    "Imagenette": TorchvisionSet(
        "Imagenette", _by_name(train="train", test="val"), "_samples", "", "https://s3.amazonaws.com/fast-ai-imageclas/"
    ),
    "EuroSAT": TorchvisionSet("EuroSAT", {"all": {}}, "samples", "", "https://huggingface.co/"),
    "SUN397": TorchvisionSet(
        "SUN397", {"all": {}}, "_image_files", "_labels", "http://vision.princeton.edu/projects/2010/SUN/"
    ),
}


def _load(request: SourceRequest) -> Dataset:
    opened = _open(request)
    if isinstance(opened, FileSource):
        return opened.load(request)
    return resize_dataset(opened, request)


def _describe(request: SourceRequest) -> DatasetSummary:
    opened = _open(request)
    return opened.describe(request) if isinstance(opened, FileSource) else summarize(opened, request)


SOURCE = Source(_load, _describe, prefix=TORCHVISION_PREFIX)


def _open(request: SourceRequest) -> FileSource | Dataset:
    """Return the files of a dataset, or its arrays in native geometry.

    Raises:
        DataFileError: The dataset is damaged, or missing and cannot be downloaded.
    """
    spec = SETS[request.name.removeprefix(TORCHVISION_PREFIX)]
    splits = _read(request, spec)
    first = next(iter(splits.values()))
    class_names = spec.class_names or tuple(name if isinstance(name, str) else name[0] for name in first.classes)
    if isinstance(getattr(first, spec.images), (np.ndarray, torch.Tensor)):
        return _from_arrays(request, spec, splits, class_names=class_names)
    return _from_files(request, spec, splits, class_names=class_names)


def _read(request: SourceRequest, spec: TorchvisionSet) -> dict[str, Any]:
    """Read every split with torchvision; download the dataset if it is missing or damaged."""
    try:
        return _construct(request, spec, download=False)
    except (OSError, RuntimeError) as error:
        missing = f"has no valid copy: {str(error).strip().splitlines()[0] if str(error).strip() else 'unreadable'}"
    except Exception as error:  # damaged files make torchvision's readers raise exceptions of any type
        what = f"the files of {request.name} cannot be read: {type(error).__name__}: {error}."
        remedy = "Remove them and run again to download them."
        raise DataFileError(Fault("data_dir", request.data_dir, what, remedy)) from error
    splits: dict[str, Any] = {}
    Download(
        request.name,
        request.data_dir,
        Path(request.data_dir),
        missing,
        [spec.url],
        lambda: splits.update(_construct(request, spec, download=True)),
    ).run()
    return splits


def _construct(request: SourceRequest, spec: TorchvisionSet, *, download: bool) -> dict[str, Any]:
    kind = getattr(torchvision_datasets(), spec.kind)
    return {split: kind(request.data_dir, **arguments, download=download) for split, arguments in spec.splits.items()}


def _from_arrays(
    request: SourceRequest, spec: TorchvisionSet, splits: dict[str, Any], *, class_names: tuple[str, ...]
) -> Dataset:
    shift = class_names.count(NO_CLASS)
    images = {}
    for split, dataset in splits.items():
        pixels = _channels_first(torch.as_tensor(getattr(dataset, spec.images)), spec.layout)
        labels = torch.as_tensor(getattr(dataset, spec.labels)).long() - shift
        images[split] = Images(pixels, labels, content_ids(pixels))
    train, dropped = _drop_ids(images["train"], images["test"].ids)
    channels, height, width = train.pixels.shape[1:]
    note = f"{request.name}, read from {request.data_dir}"
    if dropped:
        note += f"; {dropped} training images excluded: also in the test split"
    return Dataset(
        request.name,
        train,
        images["test"],
        class_names[shift:],
        str(Path(request.data_dir).absolute()),
        note,
        Geometry(size=(height, width), channels=1 if channels == 1 else 3),
    )


def _channels_first(pixels: torch.Tensor, layout: str) -> torch.Tensor:
    """Return uint8 (N, C, H, W)."""
    if layout == "NWH":  # EMNIST's images are transposed
        pixels, layout = pixels.transpose(1, 2), "NHW"
    if layout == "NHW":
        pixels, layout = pixels.unsqueeze(1), "NCHW"
    return (pixels.permute(0, 3, 1, 2) if layout == "NHWC" else pixels).contiguous()


def _drop_ids(images: Images, ids: torch.Tensor) -> tuple[Images, int]:
    """Drop the images with the given identities; also return the number dropped."""
    keep = ~torch.isin(images.ids, ids)
    if bool(keep.all()):
        return images, 0
    return Images(images.pixels[keep], images.labels[keep], images.ids[keep]), int((~keep).sum())


def _from_files(
    request: SourceRequest, spec: TorchvisionSet, splits: dict[str, Any], *, class_names: tuple[str, ...]
) -> FileSource:
    root = Path(request.data_dir).resolve()
    tables = {}
    for split, dataset in splits.items():
        entries: Sequence[Any] = getattr(dataset, spec.images)
        pairs = zip(entries, getattr(dataset, spec.labels), strict=True) if spec.labels else entries
        tables[split] = _file_table(request, root, [(os.path.realpath(path), int(label)) for path, label in pairs])
    labelled = concatenate_tables(f"{request.name} in {root}", root, tables, class_names=class_names)
    note = "official splits" if labelled.official else "the test split is sampled"
    return FileSource(labelled, str(root), f"{request.name}, {note}")


def _file_table(request: SourceRequest, root: Path, samples: list[tuple[str, int]]) -> FileTable:
    """Return the files, sorted by class and path.

    Raises:
        DataFileError: A file is missing.
    """
    table = FileTable()
    for path, label in sorted(samples, key=lambda sample: (sample[1], sample[0])):
        try:
            status = os.stat(path)
        except OSError as error:
            what = f"{path} of {request.name} cannot be read: {error.strerror}."
            remedy = "Remove the dataset's folder and run again to download it."
            raise DataFileError(Fault("data_dir", request.data_dir, what, remedy)) from None
        table.names.append(os.path.relpath(path, root))
        table.sizes.append(status.st_size)
        table.mtimes.append(status.st_mtime_ns)
        table.labels.append(label)
    return table
