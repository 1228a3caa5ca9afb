"""Records of the entry points that train or tune a base."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.params.base import RUN_ID, Auto, Count, Decay, Rate, StageParams, setting
from pipeline.params.data import DataParams, check_classes
from pipeline.params.family import FAMILY_FIELDS, GRAPH_MODEL, FamilyParams, family_default
from pipeline.params.training import MachineParams, SeedParams, TrainingParams

GPU_WORKERS = 4  # tune workers that share a GPU; each has its own CUDA context, about 0.5 GB


class BaseBudgetParams(StageParams):
    """Budget and optimizer of a base fit; auto depends on the family."""

    epochs: Count = setting("auto", "Max. epochs (default: 100 for an MLP, 30 for a CNN).", unit="epochs")
    patience: Count = setting("auto", "Early-stopping patience (default: 20 for an MLP, 6 for a CNN).", unit="epochs")
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = setting(
        128, "Batch size (default: 128, lower for fewer than 384 training images).", unit="examples"
    )
    learning_rate: Rate = setting("auto", "Learning rate (default: 0.001 for an MLP, 0.002 for a CNN).")
    weight_decay: Decay = setting(1e-4, "Weight decay: an L2 penalty; decoupled for adamw.")


class TrainBaseParams(TrainingParams, BaseBudgetParams, FamilyParams, SeedParams, MachineParams, DataParams):
    """Train a base network."""

    entry_point: ClassVar[str] = "train_base"

    classes: str = setting(
        "auto",
        "Classes to train on (default: digits 0-4 for an MLP, 0-6 for a CNN; all classes of other data).",
        allowed="at least two classes of the dataset, by name or number, such as 0-4 or ants,bees",
    )
    params_from: Annotated[str, Field(pattern=rf"^({RUN_ID})?$")] = setting(
        "",
        "Use the best parameters of a finished tune run; explicit parameters take precedence.",
        allowed="empty, or the id of a tune run (32 hexadecimal digits)",
    )

    _family_default = field_validator(*FAMILY_FIELDS, mode="before")(family_default)

    @field_validator("batch_size")
    @classmethod
    def _large_enough_for_batch_norm(cls, value: int, info: ValidationInfo) -> int:
        if value == 1 and info.data.get("batch_norm"):
            raise ValueError("batch norm needs at least 2 images per batch")
        return value

    @field_validator("classes")
    @classmethod
    def _valid_classes(cls, value: str, info: ValidationInfo) -> str:
        return value if value == "auto" else check_classes(value, info)


class TuneParams(TrainBaseParams):
    """Tune the base network by cross-validation, then train it with the best parameters."""

    entry_point: ClassVar[str] = "tune"

    study: Annotated[str, Field(pattern=r"^[\w .-]{1,100}$")] = setting(
        "auto",
        "Name of the Optuna study. auto: data, classes, network, folds, seed and a digest of the rest.",
        allowed="auto, or up to 100 letters, digits, spaces, dots and hyphens",
    )
    trials: Count = setting(20, "Number of finished trials (complete or pruned) in the study.", unit="trials")
    folds: Annotated[int, Field(ge=2, le=100)] = setting(
        5, "Cross-validation folds per trial; the default is lowered to the size of the smallest class.", unit="folds"
    )
    fold_epochs: Count = setting(20, "Max. epochs per fold.", unit="epochs")
    fold_patience: Count = setting(5, "Early-stopping patience per fold.", unit="epochs")
    sampler: Literal["tpe", "random", "gp"] = setting("tpe", "Optuna sampler.")
    pruner: Literal["race", "none"] = setting(
        "race", "Which trials run all folds. race: the better half of a generation after each fold; none: all."
    )
    space: str = setting(
        "default", "Search space: the family's default, or a YAML file.", allowed="default or a file (docs/tuning.md)"
    )
    workers: Annotated[int, Field(ge=1, le=256)] | Auto = setting(
        "auto",
        f"Parallel worker processes, one thread each. auto: one per core, or {GPU_WORKERS} on a GPU.",
        unit="processes",
        changes_result=False,
    )
    refit: bool = setting(True, "Train once with the best parameters and log the model.")

    @field_validator("model")
    @classmethod
    def _has_a_shape_to_search(cls, value: str) -> str:
        if GRAPH_MODEL.fullmatch(value):
            raise ValueError(f"tune searches shapes of mlp and cnn; for {value} use train_base with tune_on_validation")
        return value

    @field_validator("tune_on_validation")
    @classmethod
    def _searches_itself(cls, value: str) -> str:
        if value:
            raise ValueError("tune searches by cross-validation: see trials, folds and space")
        return value

    @field_validator("pruner", mode="before")
    @classmethod
    def _replaced_median(cls, value: object) -> object:
        if value == "median":
            raise ValueError("the median pruner was replaced by race")
        return value

    @field_validator("fold_epochs")
    @classmethod
    def _longer_than_warmup(cls, value: int, info: ValidationInfo) -> int:
        warmup = info.data.get("warmup_epochs", 0)
        if value <= warmup:
            raise ValueError(f"must be more than warmup_epochs={warmup:g}")
        return value

    def study_name(self, dataset: str, digest: str) -> str:
        """Return the study's name; the digest covers everything that a trial's value depends on."""
        if self.study != "auto":
            return self.study
        dataset, classes = (
            re.sub(r"[^\w.-]+", mark, text)[:200] for text, mark in ((dataset, "-"), (self.classes, "."))
        )
        return f"{self.model} {dataset} {classes} {self.folds} folds seed {self.seed} {digest}"

    def worker_count(self) -> int:
        """Return the number of processes to start; `device` must be resolved."""
        if self.workers != "auto":
            return self.workers
        cores = os.cpu_count() or 1
        return cores if self.device == "cpu" else min(cores, GPU_WORKERS)

    def with_trial(self, trial_params: dict[str, Any]) -> TuneParams:
        """Return a copy with a trial's parameters."""
        values = {name: value for name, value in self.model_dump().items() if value is not None}
        return type(self)(**{**values, **trial_params})
