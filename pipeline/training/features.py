"""Outputs of frozen blocks, computed once and proved equal.

Valid only for a deterministic prefix: frozen blocks run in evaluation mode, with fixed batch-norm statistics and
no dropout, and nothing random comes before the cut.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.splits import Examples
from pipeline.networks.build import weights_digest
from pipeline.networks.layered import PIXEL_MAXIMUM, LayeredNetwork
from pipeline.networks.macs import block_operations
from pipeline.runtime import synchronize
from pipeline.training.evaluate import CHUNK

SAMPLE = 64  # images that are computed again to check features that came from elsewhere
TOLERANCE = 1e-4  # relative to the largest feature: another batch shape rounds differently, another network is far off


@dataclass(frozen=True)
class Features:
    """What a network's first blocks make of some images.

    Attributes:
        values: float32 (N, ...), the values at depth `depth`.
        indices: int64 (N,), ascending: each image's place in the official training part.
        depth: How many blocks the images went through.
        fingerprint: Everything that the values depend on, by name.
        seconds: Wall-clock of computing them.
    """

    values: Tensor
    indices: Tensor
    depth: int
    fingerprint: dict[str, str]
    seconds: float

    def rows(self, indices: Tensor) -> Tensor:
        """Return the features of some images, by their place in the official training part."""
        places = torch.searchsorted(self.indices, indices)
        assert torch.equal(self.indices[places.clamp(max=len(self.indices) - 1)], indices), "an image without features"
        return self.values[places]


def fingerprint(network: LayeredNetwork, depth: int, examples: Examples) -> dict[str, str]:
    """Return everything that features depend on: weights and buffers, cut, data, preprocessing, type."""
    prefixes = tuple(f"blocks.{index}." for index in range(depth))
    below = {name: value for name, value in network.state_dict().items() if name.startswith(prefixes)}
    return {
        "weights": weights_digest(below),
        "cut": str(depth),
        "data": examples.digest,
        "preprocessing": f"pixels / {PIXEL_MAXIMUM:g}",
        "dtype": "float32",
    }


def fingerprint_digest(parts: Mapping[str, str]) -> str:
    """Return one digest for a fingerprint, to search by."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()[:32]


def differing_parts(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Return the names of the parts in which two fingerprints differ."""
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def feature_operations(network: LayeredNetwork, depth: int, examples: Examples) -> int:
    """Return the multiply-adds of a chunk of examples on its way through the first blocks."""
    return sum(block_operations(network)[:depth]) * min(CHUNK, len(examples))


@torch.no_grad()
def compute_features(network: LayeredNetwork, depth: int, examples: Examples) -> Features:
    """Run images through a network's first blocks, in evaluation mode and float32."""
    began = time.perf_counter()
    was_training = network.training
    network.eval()
    device = network.head.weight.device
    parts = [
        network.run_blocks(network.scale(chunk.to(device)), 0, depth).cpu()
        for chunk in torch.split(examples.pixels, CHUNK)
    ]
    network.train(was_training)
    seconds = time.perf_counter() - began
    return Features(torch.cat(parts), examples.indices, depth, fingerprint(network, depth, examples), seconds)


def check_sample(features: Features, network: LayeredNetwork, examples: Examples) -> None:
    """See that there are features of every image, then compute a sample again and compare.

    Raises:
        ValueError: The features are not what this network makes of these images.
    """
    if lacking := int((~torch.isin(examples.indices, features.indices)).sum()):
        raise ValueError(f"there are no features of {lacking} of the {len(examples)} images")
    sample = examples.take(torch.linspace(0, len(examples) - 1, min(SAMPLE, len(examples))).long())
    expected = compute_features(network, features.depth, sample).values
    found = features.rows(sample.indices)
    if expected.shape != found.shape:
        raise ValueError(f"features have the shape {tuple(found.shape[1:])} instead of {tuple(expected.shape[1:])}")
    error = float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not error <= TOLERANCE:
        raise ValueError(f"features differ from what the network computes by {error:.1e} of the largest")


@torch.no_grad()
def prefix_seconds(network: LayeredNetwork, depth: int, images: list[Tensor], batch_size: int) -> float:
    """Return the seconds that one pass of some images through the first blocks takes, in batches as in training."""
    was_training = network.training
    network.eval()
    device = network.head.weight.device
    values = [network.scale(pixels.to(device)) for pixels in images]
    synchronize(device)
    began = time.perf_counter()
    for part in values:
        for batch in torch.split(part, batch_size):
            network.run_blocks(batch, 0, depth)
    synchronize(device)
    seconds = time.perf_counter() - began
    network.train(was_training)
    return seconds
