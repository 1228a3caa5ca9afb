"""Evaluate a network: sums over examples, divided once.

Legend: N examples, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.networks.layered import LayeredNetwork
from pipeline.training.batches import chunks, scaling
from pipeline.training.chunks import chunk_size
from pipeline.training.records import Labelled


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a network on some examples.

    Attributes:
        loss: Mean cross-entropy in nats.
        probabilities_NK: Softmax of the logits, float32, on the CPU; empty unless requested.
        confusion_KK: int64; row = true class, column = predicted class.
        predicted_N: Predicted classes, int64, on the CPU.
    """

    loss: float
    probabilities_NK: Tensor
    confusion_KK: Tensor
    predicted_N: Tensor

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
def evaluate(network: LayeredNetwork, data: Labelled, *, start: int = 0, probabilities: bool = True) -> Evaluation:
    """Evaluate a network in eval mode and float32, chunk by chunk.

    Args:
        network: The network; its mode is restored.
        data: Inputs at depth `start`: pixels at depth 0, else features.
        start: Depth of the inputs.
        probabilities: Whether to return the probabilities, which take 4 NK bytes.
    """
    was_training = network.training
    size = chunk_size(network, data.values.shape[1:], start)
    network.eval()
    classes = len(network.architecture.classes)
    loss_sum, done = 0.0, 0
    # preallocated: keeping small tensors of every chunk would fragment memory
    predicted = torch.empty(len(data), dtype=torch.int64)
    softmax_NK = torch.empty(len(data) if probabilities else 0, classes)
    for values, labels in chunks(data, size, prepare=scaling(network)):
        logits = network.logits(values, start).float().cpu()
        loss_sum += float(torch.nn.functional.cross_entropy(logits.double(), labels.cpu(), reduction="sum"))
        predicted[done : done + len(labels)] = logits.argmax(1)
        if probabilities:
            softmax_NK[done : done + len(labels)] = torch.softmax(logits, 1)
        done += len(labels)
    network.train(was_training)
    pairs = torch.bincount(data.labels.cpu() * classes + predicted, minlength=classes * classes)
    return Evaluation(loss_sum / len(data), softmax_NK, pairs.reshape(classes, classes), predicted)
