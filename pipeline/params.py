"""The parameters of every entry point: one frozen record each, checked when it is made.

Each field has its type, range, unit, default and a line of help; the command line, `MLproject` and the
table in `docs/parameters.md` are all read from here. A record never holds "auto" for something that
depends on the network family: it is resolved at construction, and what belongs to the other family is None.

Nothing here reads data or starts a run. Go on to `runtime.py` (device, threads) and `data/`.
"""

from __future__ import annotations

import os
import re
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, ValidationInfo, field_validator

from pipeline.errors import Fault, UserInputError, suggest

Family = Literal["mlp", "cnn"]
FAMILIES: tuple[Family, ...] = ("mlp", "cnn")

# Data sets that are known without reading them, with their number of classes.
DATASET_CLASS_COUNTS = {"mnist": 10, "fashion_mnist": 10, "kmnist": 10, "qmnist": 10, "digits": 10}
DATASETS = ("auto", *DATASET_CLASS_COUNTS)
FOLDER_PREFIX = "folder:"

# Defaults that depend on the network family. A name that a family lacks is not a parameter of it.
FAMILY_DEFAULTS: dict[Family, dict[str, Any]] = {
    "mlp": {"classes": "0-4", "dropout": 0.0, "hidden_layers": 5, "width": 100, "batch_norm": False},
    "cnn": {"classes": "0-6", "dropout": 0.25, "channels": "16,32", "dense_width": 128},
}

_PASSWORD_IN_URL = re.compile(r"://[^/@\s:]*:[^/@\s]+@")


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
        if last - first > 9_999:
            raise ValueError(f"the range {part} names more than 10,000 classes")
        found.extend(range(first, last + 1))
    repeated = sorted({number for number in found if found.count(number) > 1}) if len(found) < 20_000 else []
    if repeated:
        raise ValueError(f"class {repeated[0]} is named twice")
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
        if isinstance(value, str) and _PASSWORD_IN_URL.search(value):
            raise ValueError("holds a password, and MLflow shows parameters to everyone: use environment variables")
        return value


def spell(value: object) -> str:
    """Return a value as it is logged: `true`, `0.001`, `0-4`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class DataParams(StageParams):
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
    seed: int = setting(
        0,
        "Seed of splits, initial weights and batch order.",
        allowed="a whole number from 0 to 4294967295",
        ge=0,
        le=2**32 - 1,
    )

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, value: str) -> str:
        if value in DATASETS or (value.startswith(FOLDER_PREFIX) and len(value) > len(FOLDER_PREFIX)):
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


class TrainingParams(DataParams):
    """How a network is trained."""

    epochs: int = setting(
        100, "The most epochs to train.", allowed="a whole number from 1 to 100000", unit="epochs", ge=1, le=100_000
    )
    patience: int = setting(
        20,
        "Stop when validation loss has not improved for this long.",
        allowed="a whole number from 1 to 100000",
        unit="epochs",
        ge=1,
        le=100_000,
    )
    batch_size: int = setting(
        128,
        "Examples in one optimizer step.",
        allowed="a whole number from 1 to 1000000",
        unit="examples",
        ge=1,
        le=1_000_000,
    )
    learning_rate: float = setting(
        0.001, "Adam's learning rate.", allowed="a number above 0 and at most 10", gt=0, le=10
    )
    weight_decay: float = setting(
        1e-4,
        "L2 regularization: this times the weights is added to their gradient.",
        allowed="a number from 0 to 10",
        ge=0,
        le=10,
    )
    weight_averaging: float = setting(
        0.998,
        "What is validated and kept is a moving average of the weights over steps with this decay; 0 switches it off.",
        allowed="a number from 0 to below 1",
        unit="fraction",
        ge=0,
        lt=1,
    )
    val_fraction: float = setting(
        0.1,
        "Share of the training images held back for validation, stratified.",
        allowed="a number above 0 and at most 0.9",
        unit="fraction",
        gt=0,
        le=0.9,
    )
    checkpoint_every: int = setting(
        10,
        "Save a checkpoint this often (and at the best epoch).",
        allowed="a whole number from 1 to 100000",
        unit="epochs",
        ge=1,
        le=100_000,
        changes_result=False,
    )
    device: str = setting(
        "auto",
        "Where to compute; auto takes CUDA or MPS where there is one.",
        allowed="auto, cpu, cuda, cuda:N or mps, and present on this machine",
        changes_result=False,
    )
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto",
        "Arithmetic of training; validation and test always use float32.",
        allowed="auto, float32 or bfloat16",
        changes_result=False,
    )
    threads: int | Literal["auto"] = setting(
        "auto",
        "Processor threads; auto leaves it to PyTorch.",
        allowed="auto or a whole number from 1 to 1024",
        unit="threads",
        changes_result=False,
    )
    register_as: str = setting(
        "",
        "Register the model under this name and move its alias best where validation accuracy improved.",
        allowed="a name without / or : or spaces around it",
        changes_result=False,
    )

    @field_validator("device")
    @classmethod
    def _present_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
            raise ValueError(suggest(value, ("auto", "cpu", "cuda", "mps")))
        if value not in ("auto", "cpu"):
            from pipeline.runtime import missing_device  # torch is imported only for whoever asks for a device

            if reason := missing_device(value):
                raise ValueError(reason)
        return value

    @field_validator("threads")
    @classmethod
    def _some_threads(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value <= 1024:
            raise ValueError("out of range")
        return value

    @field_validator("register_as")
    @classmethod
    def _registry_name(cls, value: str) -> str:
        if value != value.strip() or re.search(r"[/:]", value):
            raise ValueError("not a name the model registry takes")
        return value


class FamilyParams(TrainingParams):
    """The shape of a network of one of the two families; what belongs to the other family is None."""

    model: Family = setting("mlp", "Network family.", allowed="mlp or cnn")
    dropout: float = setting(
        "auto",
        "Share of a block's outputs dropped while training; 0 for an MLP, 0.25 for a CNN.",
        allowed="a number from 0 to below 1",
        unit="fraction",
        ge=0,
        lt=1,
    )
    hidden_layers: int | None = setting(
        "auto", "Hidden layers (MLP only; 5).", allowed="a whole number from 1 to 100", ge=1, le=100
    )
    width: int | None = setting(
        "auto",
        "Neurons in each hidden layer (MLP only; 100).",
        allowed="a whole number from 1 to 16384",
        unit="neurons",
        ge=1,
        le=16_384,
    )
    batch_norm: bool | None = setting(
        "auto", "Batch normalization before each ReLU (MLP only; false).", allowed="true or false"
    )

    @field_validator("batch_norm")
    @classmethod
    def _batch_of_several(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value and info.data.get("batch_size") == 1:
            raise ValueError("batch norm needs batches of at least 2 images; raise batch_size")
        return value

    @field_validator("model", mode="before")
    @classmethod
    def _known_family(cls, value: Any) -> Any:
        if value not in FAMILIES:
            raise ValueError(suggest(str(value), FAMILIES))
        return value

    @field_validator("dropout", "hidden_layers", "width", "batch_norm", "classes", mode="before", check_fields=False)
    @classmethod
    def _family_default(cls, value: Any, info: ValidationInfo) -> Any:
        """Replace auto by the family's default; refuse what the family does not have."""
        family: Family = info.data.get("model", "mlp")  # where the family was refused, the MLP's ranges will do
        defaults = FAMILY_DEFAULTS[family]
        assert info.field_name is not None
        if value == "auto" or (value is None and info.field_name not in defaults):
            return defaults.get(info.field_name)
        if info.field_name not in defaults:
            owners = [name for name, own in FAMILY_DEFAULTS.items() if info.field_name in own]
            raise ValueError(f"a parameter of model={owners[0]}, and model={family} was asked for; leave it out")
        return value


class TrainBaseParams(FamilyParams):
    """Parameters of `train_base`."""

    entry_point: ClassVar[str] = "train_base"

    classes: str = setting(
        "auto",
        "Classes to tell apart; 0-4 for an MLP, 0-6 for a CNN.",
        allowed="at least two class numbers of the data set, such as 0-4 or 5,7,9",
    )

    @field_validator("classes")
    @classmethod
    def _classes_of_dataset(cls, value: str, info: ValidationInfo) -> str:
        classes = parse_classes(value)
        count = DATASET_CLASS_COUNTS.get(info.data.get("dataset", ""), 10)
        if not str(info.data.get("dataset", "")).startswith(FOLDER_PREFIX) and classes[-1] >= count:
            raise ValueError(f"this data set has the classes 0-{count - 1}")
        return format_classes(classes)

    @property
    def class_numbers(self) -> tuple[int, ...]:
        """The chosen classes as numbers, sorted; the network's output k stands for the k-th of them."""
        return parse_classes(self.classes)


P = TypeVar("P", bound=StageParams)

ENTRY_POINTS: dict[str, type[StageParams]] = {model.entry_point: model for model in (TrainBaseParams,)}


def parse_params(kind: type[P], raw: dict[str, Any]) -> P:
    """Return the checked record for some raw values (text or Python values, hyphens or underscores).

    Raises:
        UserInputError: With one fault for each parameter that is unknown or not allowed, all together.
    """
    values = {name.replace("-", "_"): value for name, value in raw.items()}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserInputError(*_faults(kind, values, error)) from None


def _faults(kind: type[StageParams], values: dict[str, Any], error: ValidationError) -> list[Fault]:
    """Translate pydantic's errors into faults, one for each parameter."""
    found: dict[str, Fault] = {}
    for item in error.errors(include_url=False):
        name = str(item["loc"][0])
        if name in found:  # a union reports each of its branches
            continue
        if item["type"] == "extra_forbidden":
            remedy = suggest(name, kind.model_fields) or f"See python -m pipeline {kind.entry_point} --help."
            found[name] = Fault(name, values.get(name), "not a parameter here.", remedy)
            continue
        extra = kind.model_fields[name].json_schema_extra
        assert isinstance(extra, dict)
        why = str(item.get("ctx", {}).get("error", "")) if item["type"] == "value_error" else ""
        remedy = _sentence(why) or f"The default is {spell(kind.model_fields[name].default) or 'none'}."
        value = "(hidden)" if "password" in why else values.get(name)
        found[name] = Fault(name, value, f"must be {extra['allowed']}.", remedy)
    return list(found.values())


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text[-1:] in "?." else ".") if text else ""
