"""Timing arms in turn, so that a machine whose speed drifts slows all of them alike; and the hand-written loop."""

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
from pipeline.stages.training_run import requested_architecture
from pipeline.training.loop import Fit
from pipeline.training.records import FitSettings, Labelled


@dataclass(frozen=True)
class Timing:
    """The seconds of one arm over all rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        """Return median and range."""
        return spread(self.seconds, "s")


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        epoch: Trains for one epoch; returns its seconds where it has timed itself, anything else where not.
        score: Returns the accuracy on the test images.
    """

    epoch: Callable[[], object]
    score: Callable[[], float]


@dataclass(frozen=True)
class Task:
    """What every arm of a comparison is given.

    Attributes:
        params: The base network's.
        split: Its images.
        network: With the weights that every arm starts from.
        train: Scaled pixels and labels.
        test: Likewise.
    """

    params: TrainBaseParams
    split: Split
    network: LayeredNetwork
    train: Labelled
    test: Labelled


def load_task(options: Options, **changes: Any) -> Task:
    """Return the base network's task, parameters changed where asked."""
    params = TrainBaseParams(dataset=options.dataset, **changes)
    dataset = load_dataset(params.dataset, params.data_dir)
    split = split_for_base(dataset, params.class_numbers, val_fraction=params.val_fraction, seed=0)
    network = build_network(requested_architecture(params, split), generator(0, "weights"))
    train, test = (Labelled(network.scale(part.pixels), part.labels) for part in (split.train, split.test))
    return Task(params, split, network, train, test)


def alternate(
    arms: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Call every arm once a round, in turn, and return their seconds; the first rounds are not counted.

    An arm that returns a float has timed itself. `time.process_time` as clock leaves out waiting for other processes,
    and suits arms of one thread.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(warm_up + rounds):
        for name, arm in arms.items():
            began = clock()
            own = arm()
            taken = own if isinstance(own, float) else clock() - began
            if number >= warm_up:
                seconds[name].append(taken)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def accuracy_of(logits: Callable[[Tensor], Tensor], test: Labelled) -> float:
    """Return the share of test examples that the largest logit gets right."""
    with torch.no_grad():
        found = torch.cat([logits(part).argmax(1) for part in test.values.split(4096)])
    return float((found == test.labels).double().mean())


def plain_layers(network: LayeredNetwork) -> torch.nn.Sequential:
    """Return a copy of the network as one writes it by hand, in PyTorch's own memory order."""
    layers = copy.deepcopy(torch.nn.Sequential(*network.blocks, network.head))
    layers.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return layers


def bare_arm(network: LayeredNetwork, train: Labelled, test: Labelled, batch_size: int) -> Arm:
    """Return a hand-written float32 epoch over the same tensors and from the same weights.

    A permutation, indexing, forward, backward, PyTorch's default Adam and memory order: what one writes by hand.
    """
    layers = plain_layers(network)
    trained = [parameter for parameter in layers.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-3, weight_decay=1e-4)

    def epoch() -> None:
        layers.train()
        for places in torch.randperm(len(train.labels)).split(batch_size):
            optimizer.zero_grad()
            cross_entropy(layers(train.values[places]), train.labels[places]).backward()
            optimizer.step()

    def score() -> float:
        layers.eval()
        return accuracy_of(layers, test)

    return Arm(epoch, score)


def project_arm(network: LayeredNetwork, train: Labelled, test: Labelled, settings: FitSettings, start: int = 0) -> Arm:
    """Return the training part of one epoch of `Fit`, with everything that a stage has it do.

    Args:
        network: Copied.
        train: What to train on, at depth `start`.
        test: What to score on, likewise.
        settings: How; the epochs are counted here.
        start: The depth at which values enter.
    """
    fit = Fit(copy.deepcopy(network), train, train, settings, start=start)
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
    """Return the base MLP's settings without an end."""
    return FitSettings(
        10**6, 10**6, batch_size, 1e-3, 1e-4, seed=0, weight_averaging=weight_averaging, gradients=gradients
    )
