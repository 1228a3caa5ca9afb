"""Parameters of stages that train: machine, budget, optimizer."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator

from pipeline.errors import suggest
from pipeline.params.base import DataChoice, setting

LEARNING_RATE = "a number above 0 and at most 10"
WHOLE = "a whole number from 1 to 100000"
AUTO_WHOLE = f"auto or {WHOLE}"


class MachineChoice(DataChoice):
    """Where to compute."""

    device: str = setting(
        "auto",
        "Where to compute; auto takes CUDA or MPS where there is one.",
        allowed="auto, cpu, cuda, cuda:N or mps, and present on this machine",
        changes_result=False,
    )
    threads: int | Literal["auto"] = setting(
        "auto",
        "Processor threads; auto is one for small steps, more where they pay (docs/defaults.md).",
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


class MachineParams(MachineChoice):
    """What every single stage that computes has."""

    seed: int = setting(
        0,
        "Seed of splits, initial weights and batch order.",
        allowed="a whole number from 0 to 4294967295",
        ge=0,
        le=2**32 - 1,
    )


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
