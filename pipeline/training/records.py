"""Settings, data and history of a fit.

Legend: N examples, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

IN_MEMORY_BYTES = 256 << 20  # larger inputs are not held in memory as float32, but read batch by batch

Augment = Literal["none", "flip", "crop_flip", "trivial"]
Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class FitSettings:
    """Budget and optimizer of a fit; fields have the meaning of the parameters with the same name.

    Attributes:
        copied_learning_rate_factor: Learning rate of copied blocks, as a multiple of `learning_rate`.
        copied_weight_decay: Weight decay of copied blocks; None for `weight_decay`.
        train_dtype: `torch.bfloat16` trains under autocast; validation always uses float32.
        momentum: Momentum of SGD; None for the other optimizers.
        layer_decay: The learning rate of the k-th block below the head is multiplied by layer_decay^k.
        clip_grad_norm: Maximum gradient norm; 0 disables clipping.
        gradients: `auto` uses the manual backward pass if the network supports it.
        augment: Augmentation of the training images, which must be uint8 then; see `augmentation`.
    """

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    weight_averaging: float = 0.0
    checkpoint_every: int = 10
    copied_learning_rate_factor: float = 1.0
    copied_weight_decay: float | None = None
    train_dtype: torch.dtype = torch.float32
    optimizer: Optimizer = "adam"
    momentum: float | None = None
    schedule: Schedule = "constant"
    warmup_epochs: float = 0.0
    clip_grad_norm: float = 0.0
    layer_decay: float = 1.0
    gradients: Literal["auto", "autograd"] = "auto"
    augment: Augment = "none"

    def for_fold(self, epochs: int, patience: int) -> FitSettings:
        """Return these settings with the budget of one fold."""
        return replace(self, epochs=epochs, patience=patience)


@dataclass(frozen=True)
class Labelled:
    """Model inputs with labels: in memory on the device of the fit, or rows of a tensor that are read per batch.

    Attributes:
        values: Without `rows`: scaled pixels (N, C, H, W), or activations (N, ...) at the depth where training starts,
            on the device. With `rows`: images uint8 (M, C, H, W), scaled when they are read, or activations
            (M, ...), on the CPU; may be memory-mapped.
        labels: int64 (N,), 0 to K-1, on the device.
        rows: int64 (N,), the row of `values` of each example, on the CPU.
    """

    values: Tensor
    labels: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    def take(self, positions: Tensor, device: torch.device) -> Labelled:
        """Return the examples at some positions (M,) for a fit on a device; `self` is on the CPU."""
        labels = self.labels[positions].to(device)
        if self.rows is not None:
            return Labelled(self.values, labels, self.rows[positions])
        return Labelled(self.values[positions].to(device), labels)


@dataclass(frozen=True)
class EpochRecord:
    """The metrics of one epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        train_loss: Mean over the epoch's batches in training mode, in nats.
        train_accuracy: Likewise.
        val_loss: In evaluation mode after the epoch, in nats.
        val_accuracy: Likewise.
        epoch_seconds: Wall-clock time of the pass over the training data.
        is_best: Whether validation loss is the lowest so far.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    epoch_seconds: float
    is_best: bool

    def __str__(self) -> str:
        """Return the metrics that are shown while training."""
        losses = f"train loss {self.train_loss:.4f}, val loss {self.val_loss:.4f}"
        return f"{losses}, val accuracy {100 * self.val_accuracy:.2f} %"


@dataclass
class Progress:
    """The counters of a fit, stored in checkpoints."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    averaged_steps: int = 0
    fit_seconds: float = 0.0
