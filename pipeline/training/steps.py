"""One optimizer step by autograd: the path that every network can take.

`explicit.py` has the faster one for plain fully connected blocks. Both are called with a batch and return the mean
loss and the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.networks.layered import LayeredNetwork

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # values (B, ...), labels (B,) -> mean loss, logits (B, K)


def split_by_origin(network: LayeredNetwork, copied: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the trainable parameters of fresh layers, and those of copied blocks."""
    copies = {id(p) for block in network.blocks[:copied] for p in block.parameters()}
    trainable = [p for p in network.parameters() if p.requires_grad]
    return [p for p in trainable if id(p) not in copies], [p for p in trainable if id(p) in copies]


def build_adam(
    fresh: list[Tensor],
    copied: list[Tensor],
    *,
    learning_rate: float,
    weight_decay: float,
    copied_factor: float,
    copied_decay: float | None,
) -> torch.optim.Adam:
    """Return Adam with a group for fresh layers and one for copied ones; fused, in one pass over all weights."""
    decay = weight_decay if copied_decay is None else copied_decay
    groups: list[dict[str, Any]] = [
        {"params": fresh, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": copied, "lr": learning_rate * copied_factor, "weight_decay": decay},
    ]
    return torch.optim.Adam([group for group in groups if group["params"]], fused=True)


class AutogradStep:
    """Forward, backward, update.

    Args:
        network: In training mode when it is called.
        optimizer: Over its trainable parameters.
        start: The depth at which values enter.
        autocast: bfloat16 computes in it where PyTorch deems it safe.
        after: Called after each update.
    """

    def __init__(
        self,
        network: LayeredNetwork,
        optimizer: torch.optim.Optimizer,
        *,
        start: int,
        autocast: torch.dtype,
        after: Callable[[], None],
    ):
        self.network, self.optimizer, self.start, self.after = network, optimizer, start, after
        self.mixed = torch.autocast(network.head.weight.device.type, autocast, enabled=autocast == torch.bfloat16)

    def __call__(self, values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Train on a batch."""
        with self.mixed:
            logits = self.network.logits(values, self.start)
        if logits.dtype == torch.bfloat16:
            logits = logits.float()
        loss = cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.after()
        return loss.detach(), logits.detach()


class ScoringStep:
    """Forward only, for validation."""

    def __init__(self, network: LayeredNetwork, *, start: int):
        self.network, self.start = network, start

    def __call__(self, values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Score a batch."""
        logits = self.network.logits(values, self.start)
        return cross_entropy(logits, labels), logits
