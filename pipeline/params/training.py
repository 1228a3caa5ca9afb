"""Parameters of stages that train: budget, optimizer, machine, and the shape of a network."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from pipeline.errors import suggest
from pipeline.params.base import DataParams, check_classes, parse_classes, setting

Family = Literal["mlp", "cnn"]
FAMILIES: tuple[Family, ...] = ("mlp", "cnn")

# Defaults that depend on the network family. A name that a family lacks is not a parameter of it.
FAMILY_DEFAULTS: dict[Family, dict[str, Any]] = {
    "mlp": {
        "classes": "0-4",
        "epochs": 100,
        "patience": 20,
        "learning_rate": 0.001,
        "hidden_layers": 5,
        "width": 100,
        "batch_norm": False,
        "dropout": 0.0,
    },
    "cnn": {
        "classes": "0-6",
        "epochs": 30,
        "patience": 6,
        "learning_rate": 0.002,
        "batch_norm": True,
        "dropout": 0.1,
        "channels": "16,32",
        "kernels": "5,3",
        "strides": "2,1",
        "pool": "last",
        "dense_width": 128,
        "dense_dropout": 0.25,
    },
}
FAMILY_FIELDS = tuple(dict.fromkeys(name for defaults in FAMILY_DEFAULTS.values() for name in defaults))

# Budgets of target stages; few labels need many small steps and strong regularization (docs/defaults.md).
TARGET_BUDGETS: dict[Literal["few", "all"], dict[str, Any]] = {
    "few": {"epochs": 400, "patience": 100, "batch_size": 20, "learning_rate": 0.001, "weight_decay": 0.005},
    "all": {"epochs": 30, "patience": 6, "batch_size": 128, "learning_rate": 0.002, "weight_decay": 1e-4},
}
LEARNING_RATE = "a number above 0 and at most 10"
WHOLE = "a whole number from 1 to 100000"
AUTO_WHOLE = f"auto or {WHOLE}"

BASE_PATTERN = r"auto|[0-9a-f]{32}|runs:/[0-9a-f]{32}/\w+|models:/(m-[0-9a-f]{32}|[^/:@]+@[\w.-]+|[^/:@]+/\d+)"


class MachineParams(DataParams):
    """Where to compute."""

    device: str = setting(
        "auto",
        "Where to compute; auto takes CUDA or MPS where there is one.",
        allowed="auto, cpu, cuda, cuda:N or mps, and present on this machine",
        changes_result=False,
    )
    threads: int | Literal["auto"] = setting(
        "auto",
        "Processor threads; auto leaves it to PyTorch.",
        allowed="auto or a whole number from 1 to 1024",
        unit="threads",
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


class TrainingParams(MachineParams):
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
    learning_rate: float = setting(0.001, "Adam's learning rate.", allowed=LEARNING_RATE, gt=0, le=10)
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
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto",
        "Arithmetic of training; validation and test always use float32.",
        allowed="auto, float32 or bfloat16",
        changes_result=False,
    )
    register_as: str = setting(
        "",
        "Register the model under this name and move its alias best where validation accuracy improved.",
        allowed="a name without / or : or spaces around it",
        changes_result=False,
    )

    @field_validator("register_as")
    @classmethod
    def _registry_name(cls, value: str) -> str:
        if value != value.strip() or re.search(r"[/:]", value):
            raise ValueError("not a name the model registry takes")
        return value


class FamilyChoice(MachineParams):
    """The network family, which other defaults depend on."""

    model: Family = setting("mlp", "Network family.", allowed="mlp or cnn")

    @field_validator("model", mode="before")
    @classmethod
    def _known_family(cls, value: Any) -> Any:
        if value not in FAMILIES:
            raise ValueError(suggest(str(value), FAMILIES))
        return value


class FamilyParams(TrainingParams, FamilyChoice):
    """The shape of a network of one of the two families; what belongs to the other family is None."""

    epochs: int = setting(
        "auto",
        "The most epochs to train; 100 for an MLP, 30 for a CNN.",
        allowed=WHOLE,
        unit="epochs",
        ge=1,
        le=100_000,
    )
    patience: int = setting(
        "auto",
        "Stop when validation loss has not improved for this long; 20 for an MLP, 6 for a CNN.",
        allowed=WHOLE,
        unit="epochs",
        ge=1,
        le=100_000,
    )
    learning_rate: float = setting(
        "auto", "Adam's learning rate; 0.001 for an MLP, 0.002 for a CNN.", allowed=LEARNING_RATE, gt=0, le=10
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
    batch_norm: bool = setting(
        "auto", "Batch normalization before each ReLU; false for an MLP, true for a CNN.", allowed="true or false"
    )
    dropout: float = setting(
        "auto",
        "Share of a block's outputs dropped while training; 0 for an MLP, 0.1 of the channels for a CNN.",
        allowed="a number from 0 to below 1",
        unit="fraction",
        ge=0,
        lt=1,
    )
    channels: str | None = setting(
        "auto", "Channels of each convolution (CNN only; 16,32).", allowed="whole numbers from 1 to 1024, such as 16,32"
    )
    kernels: str | None = setting(
        "auto",
        "Side of each convolution's kernel, one for all or one each (CNN only; 5,3).",
        allowed="whole numbers from 1 to 15, one or as many as channels has",
        unit="pixels",
    )
    strides: str | None = setting(
        "auto",
        "Stride of each convolution, one for all or one each (CNN only; 2,1).",
        allowed="whole numbers from 1 to 8, one or as many as channels has",
        unit="pixels",
    )
    pool: Literal["last", "each", "none"] | None = setting(
        "auto", "Which convolutions are followed by 2x2 max-pooling (CNN only; last).", allowed="last, each or none"
    )
    dense_width: int | None = setting(
        "auto",
        "Neurons of the dense block (CNN only; 128).",
        allowed="a whole number from 1 to 16384",
        unit="neurons",
        ge=1,
        le=16_384,
    )
    dense_dropout: float | None = setting(
        "auto",
        "Share of the dense block's outputs dropped while training (CNN only; 0.25).",
        allowed="a number from 0 to below 1",
        unit="fraction",
        ge=0,
        lt=1,
    )

    @field_validator(*FAMILY_FIELDS, mode="before", check_fields=False)
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

    @field_validator("batch_norm")
    @classmethod
    def _batch_of_several(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("batch_size") == 1:
            raise ValueError("batch norm needs batches of at least 2 images; raise batch_size")
        return value

    @field_validator("channels", "kernels", "strides")
    @classmethod
    def _sizes(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        assert info.field_name is not None
        sizes = parse_sizes(value, {"channels": 1024, "kernels": 15, "strides": 8}[info.field_name])
        channels = info.data.get("channels")
        if info.field_name != "channels" and channels and len(sizes) not in (1, len(parse_sizes(channels, 1024))):
            raise ValueError(f"channels={channels} has {len(parse_sizes(channels, 1024))} convolutions")
        return ",".join(map(str, sizes))


def parse_sizes(text: str, largest: int) -> tuple[int, ...]:
    """Return the sizes that a text such as `16,32` names.

    Raises:
        ValueError: It is not of that form, or a size is not from 1 to `largest`.
    """
    words = str(text).replace(" ", "").split(",")
    if not all(re.fullmatch(r"\d{1,6}", word) and 1 <= int(word) <= largest for word in words) or len(words) > 20:
        raise ValueError("not whole numbers in that range, separated by commas")
    return tuple(map(int, words))


class TargetChoice(MachineParams):
    """Which base, and which classes it shall help with."""

    default_classes: ClassVar[str] = "5-9"
    family: ClassVar[Family] = "mlp"
    any_family: ClassVar[bool] = False  # whether a base that is named may be of the other one

    base: str = setting(
        "auto",
        "The base model; auto takes the newest that fits, or trains one.",
        allowed="auto, models:/m-ID, models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/model, or a run id",
    )
    classes: str = setting(
        "auto",
        "The target classes; 5-9 for an MLP, 7-9 for a CNN.",
        allowed="at least two class numbers of the data set, such as 5-9",
    )

    @field_validator("base")
    @classmethod
    def _model_reference(cls, value: str) -> str:
        if not re.fullmatch(BASE_PATTERN, value):
            raise ValueError(f"this is none of them; {suggest(value, ('auto',)) or 'a stage prints its model URI'}")
        return value

    @field_validator("classes")
    @classmethod
    def _target_classes(cls, value: str, info: ValidationInfo) -> str:
        return check_classes(cls.default_classes if value == "auto" else value, info)

    @property
    def class_numbers(self) -> tuple[int, ...]:
        """The target classes as numbers, sorted."""
        return parse_classes(self.classes)


class TargetParams(TrainingParams, TargetChoice):
    """Parameters of stages that train on the target classes, with few labels or all."""

    epochs: int | Literal["auto"] = setting(  # type: ignore[assignment]
        "auto", "The most epochs to train; auto is 400 with few labels, 30 with all.", allowed=AUTO_WHOLE, unit="epochs"
    )
    patience: int | Literal["auto"] = setting(  # type: ignore[assignment]
        "auto",
        "Stop when validation loss has not improved for this long; auto is 100 with few labels, 6 with all.",
        allowed=AUTO_WHOLE,
        unit="epochs",
    )
    batch_size: int | Literal["auto"] = setting(  # type: ignore[assignment]
        "auto",
        "Examples in one optimizer step; auto is 20 with few labels, 128 with all.",
        allowed=AUTO_WHOLE,
        unit="examples",
    )
    learning_rate: float | Literal["auto"] = setting(  # type: ignore[assignment]
        "auto",
        "Adam's learning rate; auto is 0.001 with few labels, 0.002 with all.",
        allowed=f"auto or {LEARNING_RATE}",
    )
    weight_decay: float | Literal["auto"] = setting(  # type: ignore[assignment]
        "auto",
        "L2 regularization: this times the weights is added to their gradient; auto is 0.005 with few labels, "
        "0.0001 with all.",
        allowed="auto or a number from 0 to 10",
    )
    per_class: int | Literal["all", "auto"] = setting(
        "auto",
        "Labels per class to train on; auto is 100 for transfer, all for a CNN, and the base's when it is continued.",
        allowed="auto, all, or a whole number from 1",
        unit="images",
    )
    val_per_class: int | Literal["auto"] = setting(
        "auto",
        "Images per class for validation besides; auto is 30 with few labels, val_fraction of them with all.",
        allowed="auto or a whole number from 1",
        unit="images",
    )

    default_per_class: ClassVar[int | Literal["all"]] = 100

    @field_validator("learning_rate")
    @classmethod
    def _some_rate(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 < value <= 10:
            raise ValueError("")
        return value

    @field_validator("weight_decay")
    @classmethod
    def _some_decay(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 <= value <= 10:
            raise ValueError("")
        return value

    @field_validator("per_class", "val_per_class", "batch_size", "epochs", "patience")
    @classmethod
    def _from_one(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value <= 100_000:
            raise ValueError("")
        return value
