"""Parameters of stages that train on target classes: which base, which labels, which budget."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from pipeline.errors import suggest
from pipeline.params.base import check_classes, parse_classes, setting
from pipeline.params.family import Family
from pipeline.params.training import AUTO_WHOLE, LEARNING_RATE, MachineParams, TrainingParams

# Budgets of target stages; few labels need many small steps and strong regularization (docs/defaults.md).
TARGET_BUDGETS: dict[Literal["few", "all"], dict[str, Any]] = {
    "few": {"epochs": 400, "patience": 100, "batch_size": 20, "learning_rate": 0.001, "weight_decay": 0.005},
    "all": {"epochs": 30, "patience": 6, "batch_size": 128, "learning_rate": 0.002, "weight_decay": 1e-4},
}

BASE_PATTERN = r"auto|[0-9a-f]{32}|runs:/[0-9a-f]{32}/\w+|models:/(m-[0-9a-f]{32}|[^/:@]+@[\w.-]+|[^/:@]+/\d+)"


class TargetChoice(MachineParams):
    """Which base, and which classes it shall help with."""

    default_classes: ClassVar[str] = "5-9"
    family: ClassVar[Family] = "mlp"
    any_family: ClassVar[bool] = False  # whether a base that is named may be of the other one

    base: str = setting(
        "auto",
        "The base model; auto takes the newest that fits, or trains one.",
        allowed="auto, models:/m-ID, models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/model, or a run id",
        changes_result=False,  # the digest of its weights, which a result's key holds, does
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
