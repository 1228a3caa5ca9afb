"""Timing arms in turn, so that a machine whose speed drifts slows all of them alike."""

from __future__ import annotations

import copy
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from pipeline.networks.layered import LayeredNetwork
from pipeline.training.loop import Labelled


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
        return f"{self.median:.4f} s ({min(self.seconds):.4f}-{max(self.seconds):.4f})"


def alternate(arms: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, Timing]:
    """Call every arm once a round, in turn, and return their seconds; the first rounds are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(warm_up + rounds):
        for name, arm in arms.items():
            began = time.perf_counter()
            arm()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - began)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def ratios(timings: Mapping[str, Timing], reference: str) -> dict[str, float]:
    """Return each arm's median over rounds of its time relative to the reference arm's in the same round."""
    base = timings[reference].seconds
    return {
        name: statistics.median(mine / theirs for mine, theirs in zip(timing.seconds, base, strict=True))
        for name, timing in timings.items()
    }


def machine() -> str:
    """Return one line about the machine and the versions."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return (
        f"{model}, {torch.get_num_threads()} thread(s), Python {platform.python_version()}, torch {torch.__version__}"
    )


def bare_epoch(network: LayeredNetwork, data: Labelled, batch_size: int) -> Callable[[], None]:
    """Return a hand-written float32 epoch over the same tensors and from the same weights.

    A permutation, indexing, forward, backward, PyTorch's default Adam and memory order: what one writes by hand.
    """
    layers = copy.deepcopy(torch.nn.Sequential(*network.blocks, network.head))
    layers.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(layers.parameters(), lr=1e-3, weight_decay=1e-4)
    layers.train()

    def epoch() -> None:
        for places in torch.randperm(len(data.labels)).split(batch_size):
            optimizer.zero_grad()
            cross_entropy(layers(data.values[places]), data.labels[places]).backward()
            optimizer.step()

    return epoch
