"""One record an entry point."""

from __future__ import annotations

import os
import re
from typing import Any, ClassVar, Literal

from pydantic import ValidationInfo, field_validator

from pipeline.errors import suggest
from pipeline.params.base import StageParams, check_classes, parse_classes, setting
from pipeline.params.family import Family, FamilyParams
from pipeline.params.studies import MainParams, ReportParams, ResumeParams
from pipeline.params.target import TargetChoice, TargetParams

GPU_WORKERS = 4  # that share a GPU, each with a context of its own there: some 0.5 GB beside its data
FEATURES_PATTERN_TEXT = "none, auto, runs:/ID/features, or the id of a cache_features run"


class TrainBaseParams(FamilyParams):
    """Train a base network on some classes."""

    entry_point: ClassVar[str] = "train_base"

    classes: str = setting(
        "auto",
        "Classes to tell apart; 0-4 for an MLP, 0-6 for a CNN.",
        allowed="at least two class numbers of the data set, such as 0-4 or 5,7,9",
    )
    params_from: str = setting(
        "",
        "Take the best setting of a finished tune run; parameters given besides it win.",
        allowed="nothing, or the run id of a tune run",
    )

    @field_validator("params_from")
    @classmethod
    def _tune_run(cls, value: str) -> str:
        if value and not re.fullmatch(r"[0-9a-f]{32}", value):
            raise ValueError("a run id has 32 hexadecimal digits")
        return value

    @field_validator("classes")
    @classmethod
    def _classes_of_dataset(cls, value: str, info: ValidationInfo) -> str:
        return check_classes(value, info)

    @property
    def class_numbers(self) -> tuple[int, ...]:
        """The chosen classes as numbers, sorted; the network's output k stands for the k-th of them."""
        return parse_classes(self.classes)


class TuneParams(TrainBaseParams):
    """Tune the base network by cross-validation, then train the best setting once."""

    entry_point: ClassVar[str] = "tune"

    study: str = setting(
        "auto",
        "The study's name; auto names it after data, classes, network, folds, seed and a digest of the rest.",
        allowed="auto or a name of letters, digits, spaces, dots and hyphens",
    )
    trials: int = setting(
        20,
        "How many finished trials (complete or pruned) the study shall have.",
        allowed="a whole number from 1 to 100000",
        unit="trials",
        ge=1,
        le=100_000,
    )
    folds: int = setting(
        5, "How many folds a setting is scored on.", allowed="a whole number from 2 to 100", unit="folds", ge=2, le=100
    )
    fold_epochs: int = setting(
        20,
        "The most epochs of a fold's fit.",
        allowed="a whole number from 1 to 100000",
        unit="epochs",
        ge=1,
        le=100_000,
    )
    fold_patience: int = setting(
        5,
        "Patience within a fold.",
        allowed="a whole number from 1 to 100000",
        unit="epochs",
        ge=1,
        le=100_000,
    )
    sampler: str = setting("tpe", "How settings are suggested.", allowed="tpe, random or gp")
    pruner: str = setting("median", "How hopeless trials are stopped.", allowed="median or none")
    space: str = setting(
        "default",
        "What is searched: the family's default, or a YAML file.",
        allowed="default or a file (docs/tuning.md)",
    )
    workers: int | Literal["auto"] = setting(
        "auto",
        f"Processes that run trials side by side, one thread each; auto is one for each core, on a GPU {GPU_WORKERS}.",
        allowed="auto or a whole number from 1 to 256",
        unit="processes",
        changes_result=False,
    )
    refit: bool = setting(True, "Train the best setting once and log the model.", allowed="true or false")

    @field_validator("sampler", "pruner")
    @classmethod
    def _known_word(cls, value: str, info: ValidationInfo) -> str:
        known = {"sampler": ("tpe", "random", "gp"), "pruner": ("median", "none")}[str(info.field_name)]
        if value not in known:
            raise ValueError(suggest(value, known))
        return value

    @field_validator("study")
    @classmethod
    def _study_name(cls, value: str) -> str:
        if not re.fullmatch(r"[\w .-]{1,100}", value):
            raise ValueError("")
        return value

    @field_validator("workers")
    @classmethod
    def _some_workers(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 1 <= value <= 256:
            raise ValueError("")
        return value

    def study_name(self, dataset: str, digest: str) -> str:
        """Return the study's name; a digest of all that its trials depend on keeps unlike ones apart."""
        if self.study != "auto":
            return self.study
        named = re.sub(r"[^\w.-]+", "-", dataset)
        return f"{self.model} {named} {self.classes.replace(',', '.')} {self.folds} folds seed {self.seed} {digest}"

    def worker_count(self) -> int:
        """Return how many processes to start, the device resolved."""
        if self.workers != "auto":
            return self.workers
        cores = os.cpu_count() or 1
        return cores if self.device == "cpu" else min(cores, GPU_WORKERS)

    def with_setting(self, chosen: dict[str, Any]) -> TuneParams:
        """Return these parameters with a trial's values in place of their own."""
        values = {name: value for name, value in self.model_dump().items() if value is not None}
        return type(self)(**{**values, **chosen})


class ReusingParams(TargetParams):
    """What stages that train copies of layers share."""

    features: str = setting(
        "none",
        "Outputs of the frozen blocks computed once; auto takes a matching artifact, else computes and logs them.",
        allowed=FEATURES_PATTERN_TEXT,
    )
    unfrozen_learning_rate_factor: float = setting(
        1.0,
        "Learning rate of the copied layers that are trained, as a multiple of learning_rate.",
        allowed="a number above 0 and at most 100",
        gt=0,
        le=100,
    )
    unfrozen_weight_decay: float | Literal["auto"] = setting(
        "auto",
        "Weight decay of the copied layers that are trained; auto is weight_decay.",
        allowed="auto or from 0 to 10",
    )

    @field_validator("features")
    @classmethod
    def _feature_source(cls, value: str) -> str:
        if not re.fullmatch(r"none|auto|[0-9a-f]{32}|runs:/[0-9a-f]{32}/features", value):
            raise ValueError("")
        return value

    @field_validator("unfrozen_weight_decay")
    @classmethod
    def _decay(cls, value: float | str) -> float | str:
        if isinstance(value, float) and not 0 <= value <= 10:
            raise ValueError("")
        return value


class TransferParams(ReusingParams):
    """Reuse the hidden layers of a base MLP for new classes with few labels."""

    entry_point: ClassVar[str] = "transfer"

    reuse_layers: int | Literal["all"] = setting(
        "all",
        "How many hidden layers of the base to copy; 0 trains from scratch.",
        allowed="all, or a whole number from 0 to the base's hidden layers",
        unit="layers",
    )
    unfreeze: int = setting(
        0,
        "How many of the copied layers, from the top, are trained.",
        allowed="a whole number from 0 to reuse_layers",
        unit="layers",
        ge=0,
    )
    upper: Literal["auto", "drop", "fresh"] = setting(
        "auto",
        "Layers above the copied ones: drop them, or fresh ones to the base's depth; auto drops, but with "
        "reuse_layers=0 takes fresh ones.",
        allowed="auto, drop or fresh",
    )

    @field_validator("reuse_layers")
    @classmethod
    def _some_layers(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("")
        return value

    @field_validator("unfreeze")
    @classmethod
    def _within_reused(cls, value: int, info: ValidationInfo) -> int:
        reused = info.data.get("reuse_layers")
        if isinstance(reused, int) and value > reused:
            raise ValueError(f"only {reused} layers are reused")
        return value

    @field_validator("upper")
    @classmethod
    def _something_is_left(cls, value: str, info: ValidationInfo) -> str:
        if value == "drop" and info.data.get("reuse_layers") == 0:
            raise ValueError("with reuse_layers=0 nothing would be left below the head; use upper=fresh")
        return value


class CacheFeaturesParams(TargetChoice):
    """Compute the outputs of a base's frozen blocks for the target images, once."""

    entry_point: ClassVar[str] = "cache_features"
    any_family: ClassVar[bool] = True

    depth: int | Literal["all"] = setting(
        "all",
        "How many blocks of the base to run the images through: reuse_layers - unfreeze, or frozen.",
        allowed="all, or a whole number from 1 to the base's blocks",
        unit="blocks",
    )

    @field_validator("depth")
    @classmethod
    def _some_blocks(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("")
        return value


class CnnTargetParams(TargetParams):
    """Defaults of the stages that train a CNN on target classes."""

    default_classes: ClassVar[str] = "7-9"
    default_per_class: ClassVar[int | Literal["all"]] = "all"
    family: ClassVar[Family] = "cnn"


class FinetuneCnnParams(CnnTargetParams, ReusingParams):
    """Fine-tune a base CNN in three parts: frozen copies, trained copies, fresh layers."""

    entry_point: ClassVar[str] = "finetune_cnn"

    frozen: int = setting(
        1,
        "How many blocks, from the input, are copied and frozen.",
        allowed="a whole number from 0",
        unit="blocks",
        ge=0,
    )
    intermediate: int = setting(
        1, "How many blocks above these are copied and trained.", allowed="a whole number from 0", unit="blocks", ge=0
    )


class ScratchCnnParams(CnnTargetParams):
    """Train a fresh CNN of the base's architecture on the target classes."""

    entry_point: ClassVar[str] = "scratch_cnn"


ENTRY_POINTS: dict[str, type[StageParams]] = {
    model.entry_point: model
    for model in (
        MainParams,
        TrainBaseParams,
        TuneParams,
        CacheFeaturesParams,
        TransferParams,
        FinetuneCnnParams,
        ScratchCnnParams,
        ReportParams,
        ResumeParams,
    )
}
