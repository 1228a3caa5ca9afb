"""What every parameter record has: fields that describe themselves, the choice of data, the spelling of classes."""

from __future__ import annotations

import os
import re
from collections import Counter
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator

from pipeline.errors import suggest
from pipeline.redaction import holds_password

# Data sets that are known without reading them, with their number of classes.
DATASET_CLASS_COUNTS = {"mnist": 10, "fashion_mnist": 10, "kmnist": 10, "qmnist": 10, "digits": 10}
DATASETS = ("auto", *DATASET_CLASS_COUNTS)
FOLDER_PREFIX = "folder:"
MAX_CLASSES = 10_000


def setting(default: Any, text: str, *, allowed: str, unit: str = "", changes_result: bool = True, **rules: Any) -> Any:
    """Declare one parameter.

    Args:
        default: Its default value.
        text: One line of help.
        allowed: The accepted values in words, for help and for messages.
        unit: The unit of the value, where it has one.
        changes_result: Whether a different value can lead to different weights or metrics.
        **rules: pydantic's own constraints (`gt`, `ge`, `lt`, `le`).
    """
    extra: dict[str, JsonValue] = {"allowed": allowed, "unit": unit, "changes_result": changes_result}
    return Field(default, description=text, json_schema_extra=extra, validate_default=True, **rules)


def is_dataset(name: str) -> bool:
    """Whether a name is that of a data set, or `folder:` with a path that can be one."""
    path = name.removeprefix(FOLDER_PREFIX)
    return name in DATASET_CLASS_COUNTS or (path != name and path != "" and path.isprintable() and len(path) < 4096)


def parse_classes(text: str) -> tuple[int, ...]:
    """Return the class numbers that `0-4` or `5,7,9` or `0-2,7` name, sorted.

    Raises:
        ValueError: The text is not of that form, runs backwards, repeats a class, or names fewer than two.
    """
    found: list[int] = []
    for part in str(text).replace(" ", "").split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part)
        if match is None:
            raise ValueError(f"{part!r} is neither a class number nor a range such as 0-4")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {part} runs backwards; write {last}-{first}")
        if len(found) + last - first >= MAX_CLASSES:
            raise ValueError(f"more than {MAX_CLASSES} classes are named")
        found.extend(range(first, last + 1))
    repeated = [number for number, times in Counter(found).items() if times > 1]
    if repeated:
        raise ValueError(f"class {min(repeated)} is named twice")
    if len(found) < 2:
        raise ValueError("one class alone cannot be told from others; name at least two, such as 0-4")
    return tuple(sorted(found))


def format_classes(classes: tuple[int, ...]) -> str:
    """Return the canonical spelling of some class numbers: runs of three or more become ranges.

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


class StageParams(BaseModel):
    """What every entry point has."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    entry_point: ClassVar[str] = ""

    dry_run: bool = setting(
        False, "Print what would be done and train nothing.", allowed="true or false", changes_result=False
    )

    def logged(self) -> dict[str, str]:
        """Return every parameter that applies, by name, in the one spelling in which it is logged."""
        values = self.model_dump(exclude={"dry_run"})
        return {name: spell(value) for name, value in values.items() if value is not None}

    @field_validator("*", mode="before")
    @classmethod
    def _no_password(cls, value: Any) -> Any:
        if isinstance(value, str) and holds_password(value):
            raise ValueError("holds a password, and MLflow shows parameters to everyone: use environment variables")
        return value


def spell(value: object) -> str:
    """Return a value as it is logged: `true`, `0.001`, `0-4`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class DataChoice(StageParams):
    """Which images, and where they lie."""

    dataset: str = setting(
        "auto",
        "The images to use; auto is MNIST where it is on disk or can be downloaded, else scikit-learn's digits.",
        allowed=f"one of {', '.join(DATASETS)}, or folder:PATH",
    )
    data_dir: str = setting(
        "",
        "Where data sets lie or are downloaded to; $PIPELINE_DATA_DIR if set, else data.",
        allowed="a folder",
        changes_result=False,
    )

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, value: str) -> str:
        if value == "auto" or is_dataset(value):
            return value
        raise ValueError(suggest(value, DATASETS))

    @field_validator("data_dir")
    @classmethod
    def _default_folder(cls, value: str) -> str:
        return value or os.environ.get("PIPELINE_DATA_DIR", "") or "data"

    @property
    def data_dir_is_chosen(self) -> bool:
        """Whether the user named the folder, by parameter or by environment, rather than left it at `data`."""
        return self.data_dir != "data"


def check_classes(text: str, info: ValidationInfo) -> str:
    """Return the canonical spelling of some classes that the data set of the same record has.

    Raises:
        ValueError: They are not classes, or not of that data set.
    """
    classes = parse_classes(text)
    dataset = str(info.data.get("dataset", "auto"))
    count = DATASET_CLASS_COUNTS.get(dataset, 10)
    if not dataset.startswith(FOLDER_PREFIX) and classes[-1] >= count:
        raise ValueError(f"this data set has the classes 0-{count - 1}")
    return format_classes(classes)
