"""Features: activations of frozen blocks, computed once.

Valid for a deterministic prefix only: frozen blocks in eval mode (fixed batch-norm statistics, no dropout), and no
augmentation.
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
from pipeline.networks.macs import forward_macs
from pipeline.runtime import synchronize
from pipeline.training.evaluate import CHUNK

SAMPLE = 64  # images that are recomputed to verify loaded features
TOLERANCE = 1e-4  # relative to the largest feature: rounding depends on the batch shape


@dataclass(frozen=True)
class Features:
    """The activations of some images after the first blocks of a network.

    Attributes:
        values: float32 (N, ...), activations after block `depth`.
        indices: int64 (N,), ascending indices into the official training split.
        depth: Number of blocks.
        fingerprint: What the values depend on, by name.
        seconds: Wall-clock time to compute them.
    """

    values: Tensor
    indices: Tensor
    depth: int
    fingerprint: dict[str, str]
    seconds: float

    def rows(self, indices: Tensor) -> Tensor:
        """Return the features of some images, by their indices into the official training split."""
        rows = torch.searchsorted(self.indices, indices)
        assert torch.equal(self.indices[rows.clamp(max=len(self.indices) - 1)], indices), "an image without features"
        return self.values[rows]


def fingerprint(network: LayeredNetwork, depth: int, examples: Examples) -> dict[str, str]:
    """Return what features depend on: weights and buffers, cut, data, preprocessing, dtype."""
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
    """Return the digest of a fingerprint."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()[:32]


def differing_parts(expected: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    """Return the names of the parts in which two fingerprints differ."""
    return sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))


def feature_operations(network: LayeredNetwork, depth: int, examples: Examples) -> int:
    """Return the MACs of one chunk of examples in the first blocks."""
    return sum(forward_macs(network)[:depth]) * min(CHUNK, len(examples))


@torch.no_grad()
def compute_features(network: LayeredNetwork, depth: int, examples: Examples) -> Features:
    """Compute the activations after the first blocks, in eval mode and float32."""
    began = time.perf_counter()
    was_training = network.training
    network.eval()
    device = network.device
    parts = [
        network.run_blocks(network.scale(chunk.to(device)), 0, depth).cpu()
        for chunk in torch.split(examples.pixels, CHUNK)
    ]
    network.train(was_training)
    seconds = time.perf_counter() - began
    return Features(torch.cat(parts), examples.indices, depth, fingerprint(network, depth, examples), seconds)


def check_sample(features: Features, network: LayeredNetwork, examples: Examples) -> None:
    """Check that every image has features, and recompute a sample.

    Raises:
        ValueError: The features are not those of this network and these images.
    """
    if missing := int((~torch.isin(examples.indices, features.indices)).sum()):
        raise ValueError(f"features are missing for {missing} of {len(examples)} images")
    sample = examples.take(torch.linspace(0, len(examples) - 1, min(SAMPLE, len(examples))).long())
    expected = compute_features(network, features.depth, sample).values
    loaded = features.rows(sample.indices)
    if expected.shape != loaded.shape:
        raise ValueError(f"features must have the shape {tuple(expected.shape[1:])}, got {tuple(loaded.shape[1:])}")
    error = float((expected - loaded).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not error <= TOLERANCE:
        raise ValueError(f"features differ from the network's by {error:.1e} of the largest")


@torch.no_grad()
def prefix_seconds(network: LayeredNetwork, depth: int, images: list[Tensor], batch_size: int) -> float:
    """Return the seconds of one pass through the first blocks, in training batches."""
    was_training = network.training
    network.eval()
    device = network.device
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
