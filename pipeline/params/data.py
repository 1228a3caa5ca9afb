"""Data parameters: known datasets, and class lists such as `0-4` or `5,7,9`."""

from __future__ import annotations

import os
import re
from collections import Counter

from pydantic import ValidationInfo, field_validator

from pipeline.errors import suggest
from pipeline.params.base import StageParams, setting

# Datasets by name, with their number of classes.
DATASET_CLASS_COUNTS = {"mnist": 10, "fashion_mnist": 10, "kmnist": 10, "qmnist": 10, "digits": 10}
DATASETS = ("auto", *DATASET_CLASS_COUNTS)
FOLDER_PREFIX = "folder:"
TORCHVISION_PREFIX = "torchvision:"
# What may follow `torchvision:`; how each is read is in data/sources/torchvision_sets.py.
TORCHVISION_DATASETS = (
    "CIFAR10", "CIFAR100", "SVHN", "STL10", "USPS", "EMNIST/balanced", "EMNIST/bymerge", "EMNIST/byclass",
    "EMNIST/letters", "EMNIST/digits", "EMNIST/mnist", "Flowers102", "OxfordIIITPet", "Food101", "DTD", "FGVCAircraft",
    "GTSRB", "StanfordCars", "Country211", "RenderedSST2", "Imagenette", "EuroSAT", "SUN397",
)  # fmt: skip
MAX_CLASSES = 10_000


class DataParams(StageParams):
    """Which images to use, and where they are stored."""

    dataset: str = setting(
        "auto",
        "Images to use. auto: MNIST if it is on disk or can be downloaded, otherwise scikit-learn's digits.",
        allowed=f"one of {', '.join(DATASETS)}, torchvision:NAME (such as torchvision:CIFAR10), or folder:PATH",
    )
    data_dir: str = setting(
        "",
        "Where datasets are stored or downloaded to (default: $PIPELINE_DATA_DIR if set, otherwise data).",
        allowed="a folder",
        changes_result=False,
    )

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, value: str) -> str:
        if value == "auto" or is_dataset(value):
            return value
        raise ValueError(suggest_dataset(value))

    @field_validator("data_dir")
    @classmethod
    def _default_folder(cls, value: str) -> str:
        return value or os.environ.get("PIPELINE_DATA_DIR", "") or "data"

    @property
    def data_dir_is_chosen(self) -> bool:
        """Whether the user set the folder, by parameter or environment variable."""
        return self.data_dir != "data"


def is_dataset(name: str) -> bool:
    """Whether `name` is a known dataset, or `folder:` followed by a plausible path."""
    if name.startswith(TORCHVISION_PREFIX):
        return name.removeprefix(TORCHVISION_PREFIX) in TORCHVISION_DATASETS
    path = name.removeprefix(FOLDER_PREFIX)
    return name in DATASET_CLASS_COUNTS or (path != name and path != "" and path.isprintable() and len(path) < 4096)


def suggest_dataset(name: str) -> str:
    """Return a suggestion for a misspelled dataset, in upper or lower case, or an empty string."""
    names = [*DATASETS, *(TORCHVISION_PREFIX + known for known in TORCHVISION_DATASETS)]
    by_spelling = {spelling.lower(): known for known in names for spelling in (known, known.split(":")[-1])}
    nearest = suggest(name.lower(), by_spelling)
    for spelling, known in by_spelling.items():
        if nearest == f"Did you mean {spelling}?":
            return f"Did you mean {known}?"
    return ""


def parse_classes(text: str) -> tuple[int, ...]:
    """Return the class numbers in `0-4`, `5,7,9` or `0-2,7`, sorted.

    Raises:
        ValueError: Bad syntax, a reversed range, a duplicate, or fewer than two classes.
    """
    classes: list[int] = []
    for part in str(text).replace(" ", "").split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part)
        if match is None:
            raise ValueError(f"{part!r} is neither a class number nor a range such as 0-4")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"range {part} is reversed; write {last}-{first}")
        if len(classes) + last - first >= MAX_CLASSES:
            raise ValueError(f"the limit is {MAX_CLASSES} classes")
        classes.extend(range(first, last + 1))
    duplicates = [number for number, count in Counter(classes).items() if count > 1]
    if duplicates:
        raise ValueError(f"duplicate class {min(duplicates)}")
    if len(classes) < 2:
        raise ValueError("a classifier needs at least two classes, such as 0-4")
    return tuple(sorted(classes))


def format_classes(classes: tuple[int, ...]) -> str:
    """Return the canonical spelling of class numbers: runs of three or more become ranges.

    >>> format_classes((0, 1, 2, 3, 4)), format_classes((5, 7, 9)), format_classes((0, 1))
    ('0-4', '5,7,9', '0,1')
    """
    runs: list[list[int]] = []
    for number in sorted(classes):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


def check_classes(text: str, info: ValidationInfo) -> str:
    """Return the canonical spelling of classes that exist in the record's dataset.

    Raises:
        ValueError: The text is not a class list, or the dataset lacks one of the classes.
    """
    classes = parse_classes(text)
    dataset = str(info.data.get("dataset", "auto"))
    count = DATASET_CLASS_COUNTS.get(dataset, 10)
    if not dataset.startswith((FOLDER_PREFIX, TORCHVISION_PREFIX)) and classes[-1] >= count:
        raise ValueError(f"the dataset has classes 0-{count - 1}")
    return format_classes(classes)
