"""An optimizer step by autograd, for any network.

`manual_backward` has a faster one for linear + ReLU blocks. Both take a batch and return mean loss and logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.networks.layered import LayeredNetwork

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # values (B, ...), labels (B,) -> mean loss, logits (B, K)


def build_adam(
    new: list[Tensor],
    copied: list[Tensor],
    *,
    learning_rate: float,
    weight_decay: float,
    copied_factor: float,
    copied_decay: float | None,
) -> torch.optim.Adam:
    """Return fused Adam with a parameter group for new layers and one for copied blocks."""
    decay = weight_decay if copied_decay is None else copied_decay
    groups: list[dict[str, Any]] = [
        {"params": new, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": copied, "lr": learning_rate * copied_factor, "weight_decay": decay},
    ]
    return torch.optim.Adam([group for group in groups if group["params"]], fused=True)


class FusedUpdate:
    """Adam's fused kernel without the overhead of `Optimizer.step`, which is larger than the kernel's time.

    The optimizer keeps the state, so checkpoints are the same; a test compares both.

    Args:
        optimizer: From `build_adam`.
    """

    def __init__(self, optimizer: torch.optim.Adam):
        self.optimizer = optimizer
        self._state: object = None  # the state that the arguments refer to; loading a checkpoint replaces it
        self._arguments: list[Any] = []  # weights, moments, steps and options per group

    @torch.no_grad()
    def __call__(self) -> None:
        """Update the weights."""
        if len(self.optimizer.state) == 0:
            self.optimizer.step()  # creates the state
            return
        if self._state is not self.optimizer.state:
            self._gather()
        for weights, averages, squares, steps, options in self._arguments:
            torch._foreach_add_(steps, 1)
            gradients = [weight.grad for weight in weights]
            torch._fused_adam_(weights, gradients, averages, squares, [], steps, **options)

    def _gather(self) -> None:
        """Collect the kernel's arguments."""
        self._state, self._arguments = self.optimizer.state, []
        for group in self.optimizer.param_groups:
            states = [self.optimizer.state[weight] for weight in group["params"]]
            averages, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
            options = {name: group[name] for name in ("lr", "weight_decay", "eps")}
            options |= {"beta1": group["betas"][0], "beta2": group["betas"][1], "amsgrad": False, "maximize": False}
            self._arguments.append((group["params"], averages, squares, steps, options))


class AutogradStep:
    """Forward, backward and update.

    Args:
        network: In training mode.
        update: Updates the weights.
        gradients: Flat gradients to zero before each step; if empty, the parameters' own are zeroed.
        start: Depth of the input values.
        autocast: `torch.bfloat16` enables autocast.
        after: Called after each update.
    """

    def __init__(
        self,
        network: LayeredNetwork,
        update: Callable[[], None],
        *,
        gradients: list[Tensor],
        start: int,
        autocast: torch.dtype,
        after: Callable[[], None],
    ):
        self.network, self.update, self.start, self.after = network, update, start, after
        self.gradients = gradients
        self.mixed = torch.autocast(network.device.type, autocast, enabled=autocast == torch.bfloat16)

    def __call__(self, values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Train on a batch."""
        with self.mixed:
            logits = self.network.logits(values, self.start)
        if logits.dtype == torch.bfloat16:
            logits = logits.float()
        loss = cross_entropy(logits, labels)
        for gradient in self.gradients:
            gradient.zero_()
        if not self.gradients:
            self.network.zero_grad()
        loss.backward()
        self.update()
        self.after()
        return loss.detach(), logits.detach()


class EvaluationStep:
    """Forward pass only, for validation."""

    def __init__(self, network: LayeredNetwork, *, start: int):
        self.network, self.start = network, start

    def __call__(self, values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate a batch."""
        logits = self.network.logits(values, self.start)
        return cross_entropy(logits, labels), logits
