"""Records of the entry points that train or compute features, each composed of the groups it needs."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.params.base import RUN_ID, Auto, Count, Decay, Rate, StageParams, setting
from pipeline.params.data import DataParams, check_classes
from pipeline.params.family import FAMILY_FIELDS, GRAPH_MODEL, Family, FamilyParams, family_default
from pipeline.params.imports import ImportBaseParams
from pipeline.params.plans import MainParams, ReportParams, ResumeParams
from pipeline.params.target import LabelParams, ReuseParams, TargetBudgetParams, TargetParams
from pipeline.params.training import MachineParams, SeedParams, TrainingParams

BlockName = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.:-]*$", max_length=300)]
SOLVED_HEADS = "all blocks below a solved head (head_solver=convex) are frozen"
GPU_WORKERS = 4  # tune workers that share a GPU; each has its own CUDA context, about 0.5 GB


class BaseBudgetParams(StageParams):
    """Budget and optimizer of a base fit; auto depends on the family."""

    epochs: Count = setting("auto", "Max. epochs (default: 100 for an MLP, 30 for a CNN).", unit="epochs")
    patience: Count = setting("auto", "Early-stopping patience (default: 20 for an MLP, 6 for a CNN).", unit="epochs")
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = setting(
        128, "Batch size; the default is lowered to the number of training images.", unit="examples"
    )
    learning_rate: Rate = setting("auto", "Learning rate (default: 0.001 for an MLP, 0.002 for a CNN).")
    weight_decay: Decay = setting(1e-4, "Weight decay: an L2 penalty; decoupled for adamw.")


class TrainBaseParams(TrainingParams, BaseBudgetParams, FamilyParams, SeedParams, MachineParams, DataParams):
    """Train a base network."""

    entry_point: ClassVar[str] = "train_base"

    classes: str = setting(
        "auto",
        "Classes to train on (default: digits 0-4 for an MLP, 0-6 for a CNN; all classes of other data).",
        allowed="at least two classes of the data set, by name or number, such as 0-4 or ants,bees",
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
    pruner: Literal["median", "none"] = setting("median", "Pruner for unpromising trials.")
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


class CutParams(LabelParams, TargetParams, SeedParams, MachineParams, DataParams):
    """A pass of labelled images through a base, for features at several cuts."""

    any_family: ClassVar[bool] = True

    cuts: Annotated[str, Field(pattern=r"^([\w.:-]+( *, *[\w.:-]+)*)?$")] = setting(
        "",
        "Pooled features after these blocks, such as 1,3 or layer2, or every; of validation and test images too.",
        allowed="empty, every, or numbers or names of blocks, separated by commas",
    )


class CacheFeaturesParams(CutParams):
    """Compute a base's frozen blocks once for all target images, and log their outputs."""

    entry_point: ClassVar[str] = "cache_features"

    depth: Annotated[int, Field(ge=1)] | Literal["all"] = setting(
        "all",
        "Number of blocks to run the images through: reuse_layers - unfreeze of transfer, or frozen of finetune_cnn.",
        allowed="all, or an integer in [1, number of blocks of the base]",
        unit="blocks",
    )
    draws: Annotated[int, Field(ge=1, le=1000)] = setting(
        1, "With cuts: number of label samples to cover (seeds from `seed` on).", unit="seeds"
    )

    @field_validator("depth")
    @classmethod
    def _one_cut_or_several(cls, value: int | str, info: ValidationInfo) -> int | str:
        if value != "all" and info.data.get("cuts"):
            raise ValueError("cuts chooses blocks too; remove one of them")
        return value


class ProbeParams(CutParams):
    """Rank the cuts of a base: heads solved on frozen features at every cut, by cross-validation."""

    entry_point: ClassVar[str] = "probe"

    cuts: Annotated[str, Field(pattern=r"^[\w.:-]+( *, *[\w.:-]+)*$")] = setting(
        "every",
        "Cuts to probe: the blocks below them, such as 1,3 or layer2.",
        allowed="every, or numbers or names of blocks, separated by commas",
    )
    folds: Annotated[int, Field(ge=3, le=100)] = setting(
        5, "Cross-validation folds; lowered to the number of labels per class.", unit="folds"
    )


def check_all_frozen(fine_tuned: bool, info: ValidationInfo) -> None:
    """Raise ValueError if blocks below a solved head are fine-tuned."""
    if fine_tuned and info.data.get("head_solver") == "convex":
        raise ValueError(f"{SOLVED_HEADS}; use {info.field_name}=0, or head_solver=sgd")


class TransferParams(
    ReuseParams, TrainingParams, TargetBudgetParams, LabelParams, TargetParams, SeedParams, MachineParams, DataParams
):
    """Reuse the blocks of a base for new classes with few labels."""

    entry_point: ClassVar[str] = "transfer"

    reuse_layers: Annotated[int, Field(ge=0)] | Literal["all"] | BlockName = setting(
        "all",
        "Blocks (hidden layers of an MLP) to copy from the base, up to a number or name; 0 trains from scratch.",
        allowed="all, an integer in [0, number of blocks of the base], or the name of a block",
        unit="layers",
    )
    unfreeze: Annotated[int, Field(ge=0)] | BlockName = setting(
        0,
        "Copied blocks to fine-tune, from the top: how many, or down to which.",
        allowed="an integer in [0, reuse_layers], or the name of a block",
        unit="layers",
    )
    upper: Literal["auto", "drop", "fresh"] = setting(
        "auto", "Layers above the copied ones: drop, or initialize randomly (default: drop; fresh if reuse_layers=0)."
    )

    train_blocks: Annotated[str, Field(pattern=r"^(auto|[\w.:-]+( *, *[\w.:-]+)*)$")] = setting(
        "auto",
        "Train exactly these copied blocks and the head, such as 3,4 or layer4 (default: the top `unfreeze`).",
        allowed="auto, or numbers or names of copied blocks, separated by commas",
    )

    @field_validator("train_blocks")
    @classmethod
    def _among_copied_blocks(cls, value: str, info: ValidationInfo) -> str:
        if value == "auto":
            return value
        if info.data.get("unfreeze"):
            raise ValueError(f"unfreeze={info.data['unfreeze']} chooses blocks too; remove one of them")
        if info.data.get("reuse_layers") == 0:
            raise ValueError("with reuse_layers=0 no block is copied")
        if info.data.get("head_solver") == "convex":
            raise ValueError(f"{SOLVED_HEADS}; use head_solver=sgd")
        return value.replace(" ", "")

    @field_validator("reuse_layers")
    @classmethod
    def _at_least_one_frozen(cls, value: int | str, info: ValidationInfo) -> int | str:
        if value == 0 and info.data.get("head_solver") == "convex":
            raise ValueError(f"{SOLVED_HEADS}; copy at least one layer, or use head_solver=sgd")
        return value

    @field_validator("unfreeze")
    @classmethod
    def _at_most_reused(cls, value: int | str, info: ValidationInfo) -> int | str:
        reused = info.data.get("reuse_layers")
        if isinstance(reused, int) and isinstance(value, int) and value > reused:
            raise ValueError(f"only {reused} layers are reused")
        check_all_frozen(value != 0, info)
        return value

    @field_validator("upper")
    @classmethod
    def _at_least_one_layer(cls, value: str, info: ValidationInfo) -> str:
        if value == "drop" and info.data.get("reuse_layers") == 0:
            raise ValueError("with reuse_layers=0 and upper=drop no hidden layer is left; use upper=fresh")
        if value == "fresh" and info.data.get("head_solver") == "convex":
            raise ValueError(f"{SOLVED_HEADS}; use upper=drop, or head_solver=sgd")
        return value


class FinetuneCnnParams(
    ReuseParams, TrainingParams, TargetBudgetParams, LabelParams, TargetParams, SeedParams, MachineParams, DataParams
):
    """Fine-tune a base CNN in three parts: frozen, fine-tuned and randomly initialized blocks."""

    entry_point: ClassVar[str] = "finetune_cnn"
    family: ClassVar[Family] = "cnn"

    frozen: Annotated[int, Field(ge=0)] = setting(1, "Blocks to copy and freeze, from the input.", unit="blocks")
    intermediate: Annotated[int, Field(ge=0)] = setting(
        1, "Blocks above the frozen ones to copy and fine-tune.", unit="blocks"
    )

    @field_validator("intermediate")
    @classmethod
    def _none_for_a_solved_head(cls, value: int, info: ValidationInfo) -> int:
        check_all_frozen(value > 0, info)
        return value


class ScratchCnnParams(
    TrainingParams, TargetBudgetParams, LabelParams, TargetParams, SeedParams, MachineParams, DataParams
):
    """Train a CNN of the base's architecture from scratch on the target classes."""

    entry_point: ClassVar[str] = "scratch_cnn"
    family: ClassVar[Family] = "cnn"


TargetStageParams = TransferParams | FinetuneCnnParams | ScratchCnnParams
AnyTargetParams = TargetStageParams | CutParams
FitParams = TrainBaseParams | TargetStageParams

ENTRY_POINTS: dict[str, type[StageParams]] = {
    record.entry_point: record
    for record in (
        MainParams,
        ImportBaseParams,
        TrainBaseParams,
        TuneParams,
        CacheFeaturesParams,
        ProbeParams,
        TransferParams,
        FinetuneCnnParams,
        ScratchCnnParams,
        ReportParams,
        ResumeParams,
    )
}
