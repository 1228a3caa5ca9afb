"""An optimizer step by autograd, for any network.

`manual_backward` is faster, for linear + ReLU blocks only. Both take a batch and return mean loss and logits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.networks.layered import LayeredNetwork

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # values (B, ...), labels (B,) -> mean loss, logits (B, K)


class AutogradStep:
    """Forward, backward and update.

    Args:
        network: In training mode.
        update: Updates the weights.
        gradients: Flat gradients to zero before each step; if empty, the gradients of the parameters are zeroed.
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
