"""Groups that all training stages share: device, seed, and the parts of a fit that do not depend on the labels."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.errors import suggest
from pipeline.params.base import Auto, Count, Probability, StageParams, setting
from pipeline.params.grid import canonical_grid
from pipeline.params.optimizer import OptimizerParams


class MachineParams(StageParams):
    """Device and threads."""

    device: str = setting(
        "auto",
        "Device. auto: CUDA or MPS if available, otherwise the CPU.",
        allowed="auto, cpu, cuda, cuda:N or mps, and available on this machine",
        changes_result=False,
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | Auto = setting(
        "auto",
        "CPU threads. auto: one for small steps, more for large ones (docs/defaults.md).",
        unit="threads",
        changes_result=False,
    )

    @field_validator("device")
    @classmethod
    def _available_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
            raise ValueError(suggest(value, ("auto", "cpu", "cuda", "mps")))
        if value not in ("auto", "cpu"):
            from pipeline.runtime import missing_device  # imports torch, which the CPU default does not need

            if reason := missing_device(value):
                raise ValueError(reason)
        return value


class SeedParams(StageParams):
    """The seed of everything random."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = setting(0, "Seed for splits, initial weights and batch order.")


class RegistrationParams(StageParams):
    """Whether the model can be served, and under which name it is registered."""

    export: bool | Auto = setting(
        "auto",
        "Log a servable graph. auto: not for steps of a plan; python -m pipeline export adds it.",
        changes_result=False,
    )
    register_as: Annotated[str, Field(pattern=r"^([^/:\s]([^/:]*[^/:\s])?)?$")] = setting(
        "",
        "Register the model under this name; alias best moves to it if validation accuracy improved.",
        allowed="a registered model name without / or :, and without spaces around it",
        changes_result=False,
    )


class TrainingParams(RegistrationParams, OptimizerParams):
    """Optimizer, augmentation, weight averaging, validation, checkpoints, precision and registration of a fit."""

    augment: Literal["auto", "none", "flip", "crop_flip", "trivial"] = setting(
        "auto",
        "Augmentation of the training images. auto: crop_flip for photos if all layers are trained, otherwise none.",
    )
    weight_averaging: Probability = setting(0.998, "EMA decay for the weights; 0 disables EMA.")
    val_fraction: Annotated[float, Field(gt=0, le=0.9)] = setting(
        0.1, "Fraction of the training images held out for validation, stratified."
    )
    tune_on_validation: str = setting(
        "",
        "Values to try, such as learning_rate=0.001,0.003 weight_decay=0.001,0.01. Each combination is fitted; the "
        "lowest validation loss wins.",
        allowed="empty, or values of learning_rate and weight_decay",
    )
    checkpoint_every: Count = setting(
        10, "Checkpoint interval; the best epoch is always saved.", unit="epochs", changes_result=False
    )
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Training precision; evaluation always uses float32.", changes_result=False
    )

    @field_validator("tune_on_validation", mode="before")
    @classmethod
    def _canonical_grid(cls, value: object) -> str:
        return canonical_grid(value)
