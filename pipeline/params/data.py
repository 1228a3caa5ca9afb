"""Data parameters: datasets, preprocessing, and class lists such as `0-4`, `5,7,9` or `ants,bees`."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator

from pipeline.errors import suggest
from pipeline.params.base import StageParams, setting

# Datasets by name, with their number of classes.
DATASET_CLASS_COUNTS = {"mnist": 10, "fashion_mnist": 10, "kmnist": 10, "qmnist": 10, "digits": 10}
DATASETS = ("auto", *DATASET_CLASS_COUNTS)
NO_DATASET = "none"  # of an imported network
FOLDER_PREFIX = "folder:"
TORCHVISION_PREFIX = "torchvision:"
# What may follow `torchvision:`; how each is read is in data/sources/torchvision_sets.py.
TORCHVISION_DATASETS = (
    "CIFAR10", "CIFAR100", "SVHN", "STL10", "USPS", "EMNIST/balanced", "EMNIST/bymerge", "EMNIST/byclass",
    "EMNIST/letters", "EMNIST/digits", "EMNIST/mnist", "Flowers102", "OxfordIIITPet", "Food101", "DTD", "FGVCAircraft",
    "GTSRB", "StanfordCars", "Country211", "RenderedSST2", "Imagenette", "EuroSAT", "SUN397",
)  # fmt: skip
MAX_CLASSES = 10_000
MAX_TEXT = 100_000  # characters of a class list, below the limit of the csv module
MAX_CLASS_NAME = 255  # characters; the longest name of a folder
MAX_CLASSES_TEXT = 1_000  # characters of class names in a parameter; longer lists are spelled as numbers
_QUOTE = '"'
PREPROCESSING_FIELDS = ("image_size", "channels", "resize", "mean", "std")


class DataParams(StageParams):
    """Which images to use, where they are stored, and how they become inputs of a network."""

    dataset: str = setting(
        "auto",
        "Images to use. auto: MNIST if it is on disk or can be downloaded, otherwise scikit-learn's digits.",
        allowed=f"one of {', '.join(DATASETS)}, torchvision:NAME (such as torchvision:CIFAR10), or folder:PATH",
    )
    data_dir: str = setting(
        "",
        "Where datasets are stored or downloaded to.",
        allowed="a folder",
        default_text="$PIPELINE_DATA_DIR if set, otherwise data",
        changes_result=False,
    )
    image_size: str = setting(
        "auto",
        "Size of the network's input. auto: the base's, else that of the images if they all agree, else 64.",
        allowed="auto, an integer in [8, 1024], or HEIGHTxWIDTH",
        unit="pixels",
    )
    channels: Literal["auto", "1", "3"] = setting(
        "auto",
        "Image channels: 1 (gray) or 3 (RGB). auto: the base's, else 1 if all images are gray, else 3.",
        allowed="auto, 1 or 3",
    )
    resize: Literal["auto", "fit", "stretch", "pad"] = setting(
        "auto", "How images become square: fit crops the center, stretch distorts, pad adds black. auto: the base's."
    )
    mean: str = setting(
        "auto",
        "Subtracted from pixels / 255. auto: none for gray images under 40 pixels, else measured on training images.",
        allowed="none, measured, or one number in [0, 1] per channel, such as 0.49,0.48,0.45",
    )
    std: str = setting(
        "auto",
        "Divisor of (pixels / 255 - mean). auto: like mean.",
        allowed="none, measured, or one positive number per channel, such as 0.25,0.24,0.26",
    )
    skip_unreadable: bool = setting(False, "Leave out images that cannot be read, with a warning.")
    verify: bool = setting(
        False, "Verify the content of all image files, not only size and modification time.", changes_result=False
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

    @field_validator("image_size", mode="before")
    @classmethod
    def _valid_size(cls, value: Any) -> str:
        text = str(value)
        sides = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
        if text != "auto" and (sides is None or not all(8 <= int(side) <= 1024 for side in sides.groups() if side)):
            raise ValueError
        return text

    @field_validator("channels", mode="before")
    @classmethod
    def _renamed(cls, value: Any) -> Any:
        text = str(value).replace(" ", "")
        if re.fullmatch(r"\d{1,6}(,\d{1,6})*", text) and text not in ("1", "3"):
            raise ValueError(f"for the output channels of convolutions, write conv_channels={text}")
        return text

    @field_validator("mean", "std")
    @classmethod
    def _valid_statistic(cls, value: str, info: ValidationInfo) -> str:
        if value not in ("auto", "none", "measured"):
            parse_statistic(value, positive=info.field_name == "std")
        return value.replace(" ", "")

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


def parse_statistic(text: str, *, positive: bool) -> tuple[float, ...]:
    """Return the one or three numbers of `mean` or (with `positive`) `std`.

    Raises:
        ValueError: Bad syntax, another count, or a number out of range.
    """
    words = text.replace(" ", "").split(",")
    if len(words) not in (1, 3) or not all(re.fullmatch(r"\d*\.?\d+(e-?\d{1,2})?", word) for word in words):
        raise ValueError("give one number, or three separated by commas")
    numbers = tuple(map(float, words))
    if positive and not all(1e-6 <= number <= 1e6 for number in numbers):
        raise ValueError("a standard deviation must be in [1e-6, 1e6]")
    if not positive and not all(0 <= number <= 1 for number in numbers):
        raise ValueError("a mean must be in [0, 1]")
    return numbers


def parse_class_list(text: str) -> tuple[str, ...]:
    """Return the items of a class list: names, numbers and ranges; an item with a comma is in double quotes.

    Raises:
        ValueError: Bad syntax, a duplicate, or (unless there is a range) fewer than two items.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"the list has {len(text)} characters; the limit is {MAX_TEXT}")
    rows = list(csv.reader([text], skipinitialspace=True)) if text.isprintable() else []
    items = [item.strip() for item in rows[0]] if rows else []
    if not items or not all(items):
        raise ValueError("separate class names or numbers by commas")
    if long := [item for item in items if len(item) > MAX_CLASS_NAME]:
        raise ValueError(f"a class name has {len(long[0])} characters; the limit is {MAX_CLASS_NAME}")
    if len(items) > MAX_CLASSES:
        raise ValueError(f"the limit is {MAX_CLASSES} classes")
    duplicates = [item for item, count in Counter(items).items() if count > 1]
    if duplicates:
        raise ValueError(f"duplicate class {duplicates[0]}")
    if len(items) < 2 and not re.fullmatch(r"\d{1,6}-\d{1,6}", items[0]):
        raise ValueError("a classifier needs at least two classes, such as 0-4")
    return tuple(items)


def join_class_list(items: tuple[str, ...]) -> str:
    """Return the inverse of `parse_class_list`."""
    return ",".join(f'"{item.replace(_QUOTE, 2 * _QUOTE)}"' if re.search('[,"]', item) else item for item in items)


def is_numeric(items: tuple[str, ...]) -> bool:
    """Whether all items of a class list are numbers or ranges."""
    return all(re.fullmatch(r"\d{1,6}(-\d{1,6})?", item) for item in items)


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
    parts = []
    for first, last in _runs(classes):
        parts.append(f"{first}-{last}" if last - first > 1 else ",".join(map(str, range(first, last + 1))))
    return ",".join(parts)


def format_class_names(class_names: tuple[str, ...], positions: tuple[int, ...] = ()) -> str:
    """Return a class list that names these classes, as short as `0-4` for digits.

    With positions, lists longer than `MAX_CLASSES_TEXT` are spelled by position, as ranges.

    Args:
        class_names: Of the selected classes.
        positions: Their positions among all classes of the dataset.

    >>> format_class_names(("5", "6", "7"), (5, 6, 7)), format_class_names(("ants", "big bees"), (0, 3))
    ('5-7', 'ants,big bees')
    """
    if all(re.fullmatch(r"0|[1-9]\d{0,5}", name) for name in class_names):
        return format_classes(tuple(map(int, class_names)))
    text = join_class_list(class_names)
    return text if len(text) <= MAX_CLASSES_TEXT or not positions else ",".join(f"{a}-{b}" for a, b in _runs(positions))


def _runs(numbers: tuple[int, ...]) -> list[list[int]]:
    """Return the runs of successive numbers as [first, last]."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][-1] = number
        else:
            runs.append([number, number])
    return runs


def check_classes(text: str, info: ValidationInfo) -> str:
    """Return a class list in canonical spelling; names are compared with the dataset when it is loaded.

    Raises:
        ValueError: The text is not a class list, or the dataset lacks one of the numbers.
    """
    items = parse_class_list(text)
    if not is_numeric(items):
        return join_class_list(items)
    classes = parse_classes(text)
    dataset = str(info.data.get("dataset", "auto"))
    count = DATASET_CLASS_COUNTS.get(dataset, 10 if dataset == "auto" else None)
    if count is not None and classes[-1] >= count:
        raise ValueError(f"the dataset has classes 0-{count - 1}")
    return format_classes(classes)
