"""Scoring a network: sums over examples, divided once.

Legend: N examples, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.networks.layered import LayeredNetwork

CHUNK = 4096  # examples at a time: large enough for full speed, small enough for convolutions' memory


@dataclass(frozen=True)
class Evaluation:
    """What a network achieves on some examples.

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
        """Share of examples classified rightly."""
        return float(self.confusion_KK.diagonal().sum() / self.confusion_KK.sum())

    @property
    def precision(self) -> float:
        """Macro average over classes of (right among predicted); a class never predicted counts 0."""
        return _mean_ratio(self.confusion_KK.diagonal(), self.confusion_KK.sum(0))

    @property
    def recall(self) -> float:
        """Macro average over classes of (right among true)."""
        return _mean_ratio(self.confusion_KK.diagonal(), self.confusion_KK.sum(1))

    @property
    def f1(self) -> float:
        """Macro average over classes of the harmonic mean of precision and recall."""
        return _mean_ratio(2 * self.confusion_KK.diagonal(), self.confusion_KK.sum(0) + self.confusion_KK.sum(1))

    def metrics(self, part: str) -> dict[str, float]:
        """Return loss, accuracy, precision, recall and f1 under names such as `test/loss`."""
        names = ("loss", "accuracy", "precision", "recall", "f1")
        return {f"{part}/{name}": getattr(self, name) for name in names}


def _mean_ratio(part: Tensor, whole: Tensor) -> float:
    return float((part.double() / whole.clamp(min=1).double()).mean())


@torch.no_grad()
def evaluate(network: LayeredNetwork, values: Tensor, labels: Tensor, *, start: int = 0) -> Evaluation:
    """Score a network in evaluation mode, in float32.

    Args:
        network: Left in the mode it came in.
        values: The examples at depth `start`: scaled pixels at depth 0, features of frozen blocks above.
        labels: int64 (N,), 0 to K-1.
        start: The depth at which `values` enter.
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
