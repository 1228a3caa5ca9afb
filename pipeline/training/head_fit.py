"""Solve the head of a network with frozen blocks, and load the solution into the network.

Legend: N images, D inputs of the head.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from pipeline.networks.layered import LayeredNetwork
from pipeline.training.batches import chunks, scaling
from pipeline.training.chunks import chunk_size
from pipeline.training.convex_head import SolvedHead, solve_head
from pipeline.training.records import Labelled

TIMED_SOLVES = 5  # repeats, for the median time
TIMING_SECONDS = 30.0  # no further repeats after this


@dataclass(frozen=True)
class HeadFit:
    """A solved head and its timing.

    Attributes:
        head: The solved head.
        feature_seconds: Wall-clock time of one pass of the training and validation images through the frozen blocks.
        solve_seconds: Wall-clock time of all solves of the grid, one value per repeat.
    """

    head: SolvedHead
    feature_seconds: float
    solve_seconds: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Training time: features plus the median solve time."""
        return self.feature_seconds + median(self.solve_seconds)


def fit_head(network: LayeredNetwork, train: Labelled, validation: Labelled, *, start: int = 0) -> HeadFit:
    """Solve the head of a network, and load it into the network.

    Args:
        network: Network with frozen blocks and a linear head.
        train: Training data at depth `start`.
        validation: Validation data at depth `start`; selects l2.
        start: Depth of the inputs: 0 for pixels.

    Raises:
        UserInputError: The features are not finite, or a class has no training image.
    """
    assert network.frozen == len(network.blocks), "all blocks must be frozen"
    assert isinstance(network.head, nn.Linear), "only a linear head can be solved"
    began = time.perf_counter()
    features, val_features = (head_inputs(network, part, start=start) for part in (train, validation))
    feature_seconds = time.perf_counter() - began
    solved = [solve_head(features, train.labels, val_features, validation_labels=validation.labels)]
    while len(solved) < TIMED_SOLVES and sum(head.seconds for head in solved) < TIMING_SECONDS:
        solved.append(solve_head(features, train.labels, val_features, validation_labels=validation.labels))
    head = solved[0]
    network.head.load_state_dict({"weight": head.weight.float(), "bias": head.bias.float()})
    return HeadFit(head, feature_seconds, tuple(one.seconds for one in solved))


@torch.no_grad()
def head_inputs(network: LayeredNetwork, data: Labelled, *, start: int = 0) -> Tensor:
    """Return the inputs of the head, float32 (N, D) on the CPU, computed in eval mode and in chunks.

    Args:
        network: The network; its mode is restored.
        data: Inputs at depth `start`.
        start: Depth of the inputs.
    """
    was_training = network.training
    network.eval()
    size, done = chunk_size(network, data.values.shape[1:], start), 0
    result = torch.empty(0)
    for values, labels in chunks(data, size, prepare=scaling(network)):
        part = network.head_inputs(values, start)
        if done == 0:
            result = torch.empty(len(data), part.shape[1])
        result[done : done + len(labels)] = part
        done += len(labels)
    network.train(was_training)
    return result
