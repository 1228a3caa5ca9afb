"""The group of the optimizer: which one, its learning-rate schedule, and gradient clipping."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.params.base import Probability, StageParams, setting

DEFAULT_MOMENTUM = 0.9


class OptimizerParams(StageParams):
    """Optimizer, schedule and clipping; `learning_rate` and `weight_decay` belong to the budget."""

    optimizer: Literal["adam", "adamw", "sgd"] = setting(
        "adam", "Optimizer; learning_rate's default was chosen for adam. adamw decouples weight decay."
    )
    momentum: Probability | None = setting("auto", "Momentum of sgd (default: 0.9).", allowed="a number in [0, 1)")
    schedule: Literal["constant", "cosine"] = setting(
        "constant",
        "Learning rate after warm-up. cosine: decays to 0 over all epochs; early stopping still applies.",
    )
    warmup_epochs: Annotated[float, Field(ge=0, le=100_000)] = setting(
        0.0, "Epochs of linear learning-rate warm-up; may be a fraction.", unit="epochs"
    )
    clip_grad_norm: Annotated[float, Field(ge=0, le=1_000_000)] = setting(
        0.0, "Max. gradient norm over all trained parameters; 0 disables clipping."
    )

    @field_validator("momentum", mode="before")
    @classmethod
    def _only_for_sgd(cls, value: Any, info: ValidationInfo) -> Any:
        is_sgd = info.data.get("optimizer") == "sgd"
        if value in ("auto", None):
            return DEFAULT_MOMENTUM if is_sgd else None
        if not is_sgd and "optimizer" in info.data:
            raise ValueError("only optimizer=sgd uses momentum")
        return value

    @field_validator("warmup_epochs")
    @classmethod
    def _shorter_than_the_fit(cls, value: float, info: ValidationInfo) -> float:
        epochs = info.data.get("epochs")
        if isinstance(epochs, int) and value >= epochs:
            raise ValueError(f"must be fewer than the {epochs} epochs of the fit")
        return value
