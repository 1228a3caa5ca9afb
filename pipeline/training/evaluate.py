"""Evaluate a network: sums over examples, divided once.

Legend: N examples, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.networks.layered import LayeredNetwork

CHUNK = 4096  # examples per forward pass


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a network on some examples.

    Attributes:
        loss: Mean cross-entropy in nats.
        probabilities_NK: Softmax of the logits, float32, on the CPU.
        confusion_KK: int64; row = true class, column = predicted class.
    """

    loss: float
    probabilities_NK: Tensor
    confusion_KK: Tensor

    @property
    def accuracy(self) -> float:
        """Fraction of correctly classified examples."""
        return float(self.confusion_KK.diagonal().sum() / self.confusion_KK.sum())

    @property
    def precision(self) -> float:
        """Macro precision; 0 for a class that is never predicted."""
        return _mean_ratio(self.confusion_KK.diagonal(), self.confusion_KK.sum(0))

    @property
    def recall(self) -> float:
        """Macro recall."""
        return _mean_ratio(self.confusion_KK.diagonal(), self.confusion_KK.sum(1))

    @property
    def f1(self) -> float:
        """Macro F1."""
        return _mean_ratio(2 * self.confusion_KK.diagonal(), self.confusion_KK.sum(0) + self.confusion_KK.sum(1))

    def metrics(self, prefix: str) -> dict[str, float]:
        """Return loss, accuracy, precision, recall and f1 under names such as `test/loss`."""
        names = ("loss", "accuracy", "precision", "recall", "f1")
        return {f"{prefix}/{name}": getattr(self, name) for name in names}


def _mean_ratio(numerator: Tensor, denominator: Tensor) -> float:
    return float((numerator.double() / denominator.clamp(min=1).double()).mean())


@torch.no_grad()
def evaluate(network: LayeredNetwork, values: Tensor, labels: Tensor, *, start: int = 0) -> Evaluation:
    """Evaluate a network in eval mode and float32.

    Args:
        network: Its mode is restored.
        values: Activations at depth `start`: scaled pixels at depth 0, else features.
        labels: int64 (N,), 0 to K-1.
        start: Depth of `values`.
    """
    was_training = network.training
    network.eval()
    logits_NK = torch.cat([network.logits(chunk, start).float().cpu() for chunk in torch.split(values, CHUNK)])
    network.train(was_training)
    labels = labels.cpu()
    classes = logits_NK.shape[1]
    loss = torch.nn.functional.cross_entropy(logits_NK.double(), labels, reduction="sum") / len(labels)
    pairs = torch.bincount(labels * classes + logits_NK.argmax(1), minlength=classes * classes)
    return Evaluation(float(loss), torch.softmax(logits_NK, 1), pairs.reshape(classes, classes))
