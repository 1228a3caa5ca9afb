"""Interleaved timing, so that a drift in machine speed affects all arms alike; the plain PyTorch loop."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.rows import Options, spread
from pipeline.data.sources.registry import load_dataset
from pipeline.data.splits import Split, split_for_base
from pipeline.networks.build import build_network
from pipeline.networks.layered import LayeredNetwork
from pipeline.params import TrainBaseParams
from pipeline.runtime import generator
from pipeline.stages.data_loading import base_classes
from pipeline.stages.fit_settings import requested_architecture
from pipeline.training.loop import Fit
from pipeline.training.records import FitSettings, Labelled


@dataclass(frozen=True)
class Timing:
    """Seconds of one arm, per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over rounds."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        """Return median and range."""
        return spread(self.seconds, "s")


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        epoch: Trains for one epoch; may return its own timing in seconds.
        score: Returns the test accuracy.
    """

    epoch: Callable[[], object]
    score: Callable[[], float]


@dataclass(frozen=True)
class Task:
    """Data and initial weights, the same for all arms of a comparison.

    Attributes:
        params: Of the base network.
        split: Its images.
        network: The initial weights.
        train: Normalized pixels and labels of the training images.
        test: Of the test images.
    """

    params: TrainBaseParams
    split: Split
    network: LayeredNetwork
    train: Labelled
    test: Labelled


def load_task(options: Options, **changes: Any) -> Task:
    """Return the base network's task with changed parameters."""
    params = TrainBaseParams(dataset=options.dataset, augment="none", **changes)
    dataset = load_dataset(params.dataset, params.data_dir)
    split = split_for_base(dataset, base_classes(params, dataset), val_fraction=params.val_fraction, seed=0)
    network = build_network(requested_architecture(params, split), generator(0, "weights"))
    train, test = (Labelled(network.scale(part.pixels), part.labels) for part in (split.train, split.test))
    return Task(params, split, network, train, test)


def alternate(
    arms: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Run every arm once per round, and return their seconds without the warm-up rounds.

    An arm that returns a float has timed itself. For single-threaded arms, `time.process_time` as the clock excludes
    the time spent waiting for other processes.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(warm_up + rounds):
        for name, arm in arms.items():
            began = clock()
            result = arm()
            elapsed = result if isinstance(result, float) else clock() - began
            if number >= warm_up:
                seconds[name].append(elapsed)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def accuracy_of(logits: Callable[[Tensor], Tensor], test: Labelled) -> float:
    """Return the test accuracy."""
    with torch.no_grad():
        predicted = torch.cat([logits(part).argmax(1) for part in test.values.split(4096)])
    return float((predicted == test.labels).double().mean())


def plain_layers(network: LayeredNetwork) -> torch.nn.Sequential:
    """Return a copy of the network as a plain module in PyTorch's default memory format."""
    layers = copy.deepcopy(torch.nn.Sequential(*network.blocks, network.head))
    layers.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return layers


def plain_arm(network: LayeredNetwork, batch_size: int, *, train: Labelled, test: Labelled) -> Arm:
    """Return a plain float32 PyTorch loop on the same tensors, starting from the same weights.

    A permutation, indexing, forward, backward, and PyTorch's default Adam and memory format.
    """
    layers = plain_layers(network)
    trained = [parameter for parameter in layers.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-3, weight_decay=1e-4)

    def epoch() -> None:
        layers.train()
        for indices in torch.randperm(len(train.labels)).split(batch_size):
            optimizer.zero_grad()
            cross_entropy(layers(train.values[indices]), train.labels[indices]).backward()
            optimizer.step()

    def score() -> float:
        layers.eval()
        return accuracy_of(layers, test)

    return Arm(epoch, score)


def project_arm(
    network: LayeredNetwork, settings: FitSettings, *, train: Labelled, test: Labelled, start: int = 0
) -> Arm:
    """Return the training part of `Fit`'s epochs, as in a stage; `train` and `test` hold activations at depth `start`.

    The network is copied, not modified.
    """
    fit = Fit(copy.deepcopy(network), train, train, settings=settings, start=start)
    done = 0

    def epoch() -> None:
        nonlocal done
        done += 1
        fit.train_epoch(done)

    def score() -> float:
        fit.scored.eval()
        return accuracy_of(lambda values: fit.scored.logits(values, start), test)

    return Arm(epoch, score)


def endless(
    batch_size: int, weight_averaging: float = 0.998, gradients: Literal["auto", "autograd"] = "auto"
) -> FitSettings:
    """Return the base MLP's settings without a limit on epochs."""
    return FitSettings(
        10**6, 10**6, batch_size, 1e-3, 1e-4, seed=0, weight_averaging=weight_averaging, gradients=gradients
    )
