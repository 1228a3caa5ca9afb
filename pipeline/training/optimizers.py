"""Optimizers: parameter groups, learning-rate schedule, gradient clipping, and the update after each backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.networks.layered import LayeredNetwork
from pipeline.training.records import FitSettings

Update = Callable[[], None]


@dataclass(frozen=True)
class ParameterGroup:
    """Trainable parameters with the same learning rate and weight decay."""

    parameters: list[Tensor]
    learning_rate: float
    weight_decay: float


def parameter_groups(network: LayeredNetwork, settings: FitSettings, copied: int = 0) -> list[ParameterGroup]:
    """Group the trainable parameters: new layers first, then copied blocks; with `layer_decay`, one group per block.

    Args:
        network: Network with its blocks frozen.
        settings: Settings of the fit.
        copied: Number of copied blocks from the input.
    """
    depth = len(network.blocks)
    block_of = {id(p): index for index, block in enumerate(network.blocks) for p in block.parameters()}
    members: dict[tuple[bool, int], list[Tensor]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            index = block_of.get(id(parameter), depth)
            below_head = depth - index if settings.layer_decay < 1 else 0
            members.setdefault((index < copied, below_head), []).append(parameter)
    return [_group(members[key], settings, key[0], below_head=key[1]) for key in sorted(members)]


def _group(parameters: list[Tensor], settings: FitSettings, is_copied: bool, *, below_head: int) -> ParameterGroup:
    rate, decay = settings.learning_rate * settings.layer_decay**below_head, settings.weight_decay
    if is_copied:
        rate *= settings.copied_learning_rate_factor
        decay = decay if settings.copied_weight_decay is None else settings.copied_weight_decay
    return ParameterGroup(parameters, rate, decay)


def build_optimizer(groups: list[ParameterGroup], settings: FitSettings) -> torch.optim.Optimizer:
    """Return the fused optimizer of the settings: Adam (L2 penalty), AdamW (decoupled weight decay) or SGD."""
    options: list[dict[str, Any]] = [
        {"params": group.parameters, "lr": group.learning_rate, "weight_decay": group.weight_decay} for group in groups
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(options, momentum=settings.momentum or 0.0, fused=True)
    return (torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam)(options, fused=True)


def rate_factor(step: int, *, total: int, warmup: int, cosine: bool) -> float:
    """Return the learning-rate factor at an optimizer step (0-based).

    Linear warm-up from 1 / warmup to 1, then constant, or a half cosine that reaches 0 after the last step.

    Source: `torch.optim.lr_scheduler.LinearLR` and `CosineAnnealingLR`, stepped after every optimizer step.

    Args:
        step: Optimizer steps so far.
        total: Steps of the whole fit.
        warmup: Warm-up steps.
        cosine: Whether to decay after the warm-up.
    """
    if step < warmup:
        return (step + 1) / warmup
    if not cosine:
        return 1.0
    return (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup)))) / 2


class ScheduledUpdate:
    """Sets the learning rate of each step and clips gradients before the update.

    The step follows from the epoch, so that a checkpoint needs no scheduler state.

    Args:
        optimizer: The optimizer; its learning rates are set.
        update: Updates the weights.
        settings: Schedule, warm-up and clipping.
        steps_per_epoch: Optimizer steps per epoch.

    Attributes:
        step: Optimizer steps so far.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, update: Update, settings: FitSettings, *, steps_per_epoch: int
    ):
        self.optimizer, self.update, self.max_norm = optimizer, update, settings.clip_grad_norm
        self.steps_per_epoch, self.step = steps_per_epoch, 0
        self.cosine, self.total = settings.schedule == "cosine", settings.epochs * steps_per_epoch
        self.warmup = round(settings.warmup_epochs * steps_per_epoch)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def start_epoch(self, epoch: int) -> None:
        """Continue at the first step of an epoch (1-based)."""
        self.step = (epoch - 1) * self.steps_per_epoch

    def __call__(self) -> None:
        """Update the weights."""
        factor = rate_factor(self.step, total=self.total, warmup=self.warmup, cosine=self.cosine)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        if self.max_norm:
            torch.nn.utils.clip_grad_norm_(self._weights, self.max_norm)
        self.update()
        self.step += 1


class FusedUpdate:
    """Adam's fused kernel without `Optimizer.step`, whose overhead exceeds the time of the kernel.

    The optimizer keeps the state, so checkpoints are the same. A test compares both.

    Args:
        optimizer: Fused Adam or AdamW.
    """

    def __init__(self, optimizer: torch.optim.Adam):
        self.optimizer = optimizer
        self.kernel = torch._fused_adamw_ if isinstance(optimizer, torch.optim.AdamW) else torch._fused_adam_
        self._state: object = None  # the state that the arguments refer to; loading a checkpoint replaces it
        self._arguments: list[Any] = []  # the group, its weights, moments, steps and options

    @torch.no_grad()
    def __call__(self) -> None:
        """Update the weights."""
        if len(self.optimizer.state) == 0:
            self.optimizer.step()  # creates the state
            return
        if self._state is not self.optimizer.state:
            self._gather()
        for group, averages, squares, steps, options in self._arguments:
            torch._foreach_add_(steps, 1)
            weights = group["params"]
            gradients = [weight.grad for weight in weights]
            self.kernel(weights, gradients, averages, squares, [], steps, lr=group["lr"], **options)

    def _gather(self) -> None:
        """Collect the kernel's arguments."""
        self._state, self._arguments = self.optimizer.state, []
        for group in self.optimizer.param_groups:
            states = [self.optimizer.state[weight] for weight in group["params"]]
            averages, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
            options = {name: group[name] for name in ("weight_decay", "eps")}
            options |= {"beta1": group["betas"][0], "beta2": group["betas"][1], "amsgrad": False, "maximize": False}
            self._arguments.append((group, averages, squares, steps, options))
