"""Groups of the stages that train on target classes: base model, labels, budget, and how layers are reused."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.params.base import RUN_ID, Auto, Count, Decay, Rate, StageParams, setting
from pipeline.params.data import check_classes
from pipeline.params.family import OWN_PATTERN, Family
from pipeline.params.optimizer import OptimizerParams

# Budgets by number of labels: few labels need many small steps and strong regularization (docs/defaults.md).
TARGET_BUDGETS: dict[Literal["few", "all"], dict[str, Any]] = {
    "few": {"epochs": 400, "patience": 100, "batch_size": 20, "learning_rate": 0.001, "weight_decay": 0.005},
    "all": {"epochs": 30, "patience": 6, "batch_size": 128, "learning_rate": 0.002, "weight_decay": 1e-4},
}
DEFAULT_PER_CLASS: dict[Family, int | Literal["all"]] = {"mlp": 100, "cnn": "all"}

# Parameters of the optimizer, which a solved head does not use.
NOT_FOR_SOLVED_HEADS = (
    *TARGET_BUDGETS["few"], "weight_averaging", "checkpoint_every", "dtype", "unfrozen_learning_rate_factor",
    "unfrozen_weight_decay", "tune_on_validation", "strategy", "layer_decay",
    *OptimizerParams.model_fields.keys() - {"dry_run"},
)  # fmt: skip

BASE_PATTERN = rf"^(auto|{RUN_ID}|runs:/{RUN_ID}/\w+|models:/(m-{RUN_ID}|[^/:@]+@[\w.-]+|[^/:@]+/\d+))$"


class TargetParams(StageParams):
    """The base model and the target classes."""

    family: ClassVar[Family] = "mlp"
    any_family: ClassVar[bool] = False  # whether an explicit base may be of the other family

    base: Annotated[str, Field(pattern=BASE_PATTERN)] = setting(
        "auto",
        "Base model. auto: the newest compatible base, or train one first.",
        allowed="auto, models:/m-ID, models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/model, or a run id",
        hint="Each stage prints its model URI.",
        changes_result=False,  # the cache key holds the digest of its weights instead
    )
    model: Annotated[str, Field(pattern=OWN_PATTERN)] = setting(
        "",
        "Your own code, if it built the base: never executed unless named again.",
        allowed="empty, or own:PATH.py:FUNCTION as it was given to import_base or train_base",
        changes_result=False,  # the architecture, which is in the cache key, holds the digest of the code
    )
    classes: str = setting(
        "auto",
        "Target classes (default: digits 5-9 for an MLP, 7-9 for a CNN; else those that the base has not seen).",
        allowed="at least two classes of the dataset, by name or number, such as 5-9 or ants,bees",
    )

    @field_validator("classes")
    @classmethod
    def _target_classes(cls, value: str, info: ValidationInfo) -> str:
        return value if value == "auto" else check_classes(value, info)


class LabelParams(StageParams):
    """How many labels of the target classes are used."""

    per_class: Count | Literal["all"] | Auto = setting(
        "auto",
        "Labels per class (default: 100 for an MLP, at most those of a class; all for a CNN; a continued base's own).",
        unit="images",
    )
    val_per_class: Count | Auto = setting(
        "auto",
        "Extra validation images per class (default: 30, at most a quarter of a class; val_fraction with all labels).",
        unit="images",
    )


class TargetBudgetParams(StageParams):
    """Budget and optimizer of a fit on the target classes; auto depends on the number of labels."""

    epochs: Count | Auto = setting("auto", "Max. epochs (default: 400 for few labels, 30 for all).", unit="epochs")
    patience: Count | Auto = setting(
        "auto", "Early-stopping patience (default: 100 for few labels, 6 for all).", unit="epochs"
    )
    batch_size: Count | Auto = setting(
        "auto", "Batch size (default: 20 for few labels; else 128, lower for few images).", unit="examples"
    )
    learning_rate: Rate | Auto = setting("auto", "Learning rate (default: 0.001 for few labels, 0.002 for all).")
    weight_decay: Decay | Auto = setting(
        "auto", "Weight decay: an L2 penalty, decoupled for adamw (default: 0.005 for few labels, 0.0001 for all)."
    )


class ReuseParams(StageParams):
    """How copied layers are trained, and whether the outputs of frozen ones are cached."""

    features: Annotated[str, Field(pattern=rf"^(none|auto|{RUN_ID}|runs:/{RUN_ID}/features)$")] = setting(
        "none",
        "Cached outputs of the frozen blocks. auto: a matching artifact, or compute and log them first.",
        allowed="none, auto, runs:/ID/features, or the id of a cache_features run",
        hint="cache_features prints its run id.",
    )
    unfrozen_learning_rate_factor: Annotated[float, Field(gt=0, le=100)] = setting(
        1.0, "Learning rate of the fine-tuned layers, as a multiple of learning_rate."
    )
    unfrozen_weight_decay: Decay | Auto = setting("auto", "Weight decay of fine-tuned layers (default: weight_decay).")
    head_solver: Literal["sgd", "convex"] = setting(
        "sgd",
        "How a head on frozen layers is trained. convex: solved to a tolerance, L2 by validation loss, without epochs.",
    )

    strategy: Literal["finetune", "lp_ft"] = setting(
        "finetune", "finetune: train everything at once. lp_ft: solve the head on the frozen blocks first (LP-FT)."
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = setting(
        1.0, "The learning rate of the k-th block below the head is multiplied by layer_decay^k."
    )

    @field_validator("strategy")
    @classmethod
    def _something_to_fine_tune(cls, value: str, info: ValidationInfo) -> str:
        if value == "lp_ft" and info.data.get("head_solver") == "convex":
            raise ValueError("with head_solver=convex nothing is fine-tuned after the head; use head_solver=sgd")
        return value

    @field_validator("features", "head_solver")
    @classmethod
    def _not_with_augmentation(cls, value: str, info: ValidationInfo) -> str:
        augment = info.data.get("augment", "auto")
        if value not in ("none", "sgd") and augment not in ("auto", "none"):
            raise ValueError(
                f"features are computed once, before augmentation (augment={augment}); "
                f"use {info.field_name}={'none' if info.field_name == 'features' else 'sgd'}, or augment=none"
            )
        return value
