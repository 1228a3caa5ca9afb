"""Features: activations of frozen blocks, computed once.

Valid for deterministic blocks only: frozen, in eval mode (fixed batch-norm statistics, no dropout), and without
augmentation.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.examples import Examples
from pipeline.disk_space import disk_full_errors
from pipeline.networks.build import weights_digest
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.macs import forward_macs
from pipeline.runtime import synchronize
from pipeline.training.batches import chunks, scaling
from pipeline.training.chunks import chunk_size
from pipeline.training.records import IN_MEMORY_BYTES, Labelled

SAMPLE = 64  # number of images recomputed to verify loaded features
TOLERANCE = 1e-4  # relative to the largest feature: rounding depends on the batch shape


@dataclass(frozen=True)
class Features:
    """Activations of images after the first blocks of a network.

    Attributes:
        values: float32 (N, ...), activations after block `depth`.
        ids: int64 (N,), identities of the images.
        depth: Number of blocks.
        fingerprint: Everything that the values depend on, by name.
        seconds: Wall-clock time of the computation.
        pooled: Whether they are pooled: one vector per image, (N, D).
    """

    values: Tensor
    ids: Tensor
    depth: int
    fingerprint: dict[str, str]
    seconds: float
    pooled: bool = False

    def positions(self, ids: Tensor) -> Tensor:
        """Return the rows of `values` for the images with the given identities."""
        ordered, order = self._ordered
        positions = torch.searchsorted(ordered, ids).clamp(max=len(ordered) - 1)
        assert torch.equal(ordered[positions], ids), "an image without features"
        return order[positions]

    def rows(self, ids: Tensor) -> Tensor:
        """Return a copy of the features of the images with the given identities."""
        return self.values[self.positions(ids)]

    def has_all(self, ids: Tensor) -> bool:
        """Return whether all images with these identities have features."""
        return bool(torch.isin(ids, self.ids).all())

    @cached_property
    def _ordered(self) -> tuple[Tensor, Tensor]:
        """Sorted identities, and their rows."""
        ordered, order = self.ids.sort(stable=True)
        return ordered, order


def fingerprint(network: LayeredNetwork, depth: int, examples: Examples) -> dict[str, str]:
    """Return everything that features depend on: weights and buffers, depth, data, preprocessing, dtype."""
    prefixes = tuple(f"blocks.{index}." for index in range(depth))
    below = {name: value for name, value in network.state_dict().items() if name.startswith(prefixes)}
    return {
        "weights": weights_digest(below),
        "cut": str(depth),
        "data": examples.digest,
        "preprocessing": network.architecture.preprocessing.model_dump_json(),
        "dtype": "float32",
    }


def fingerprint_digest(parts: Mapping[str, str]) -> str:
    """Return the digest of a fingerprint."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()[:32]


def differing_parts(expected: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    """Return the names of the entries in which two fingerprints differ."""
    return sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))


def feature_operations(network: LayeredNetwork, depth: int, examples: Examples) -> int:
    """Return the MACs of the first blocks for one chunk of examples."""
    return sum(forward_macs(network)[:depth]) * min(chunk_size(network, examples.image_shape), len(examples))


@torch.no_grad()
def compute_features(
    network: LayeredNetwork, depth: int, examples: Examples, *, folder: Path | None = None
) -> Features:
    """Compute the activations after the first blocks, in eval mode and float32, chunk by chunk.

    Args:
        network: The network; its mode is restored.
        depth: Number of blocks.
        examples: The images.
        folder: Folder of a memory-mapped file for large features; None keeps them in memory.

    Raises:
        DiskFullError: The features do not fit on the disk.
    """
    began = time.perf_counter()
    was_training = network.training
    network.eval()
    data = Labelled(examples.images.pixels, examples.labels.to(network.device), examples.pixel_rows)
    values, done = torch.empty(0), 0
    for inputs, _ in chunks(data, chunk_size(network, examples.image_shape), prepare=scaling(network)):
        part = network.run_blocks(inputs, 0, depth)
        if done == 0:
            values = _empty((len(examples), *part.shape[1:]), folder)
        values[done : done + len(part)] = part
        done += len(part)
    network.train(was_training)
    seconds = time.perf_counter() - began
    return Features(values, examples.ids, depth, fingerprint(network, depth, examples), seconds)


def _empty(shape: Sequence[int], folder: Path | None) -> Tensor:
    """Return an empty float32 tensor; if large, memory-mapped from an unlinked file that ends with the process."""
    count = math.prod(shape)
    if folder is None or 4 * count <= IN_MEMORY_BYTES:
        return torch.empty(tuple(shape))
    with disk_full_errors(folder), tempfile.NamedTemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(
                file.fileno(), 0, 4 * count
            )  # writing to a memory map on a full disk would kill the process
        return torch.from_file(file.name, shared=True, size=count).view(tuple(shape))


def check_sample(features: Features, network: LayeredNetwork, examples: Examples) -> None:
    """Check that every image has features, and recompute a sample.

    Raises:
        ValueError: The features are not those of this network and these images.
    """
    if missing := int((~torch.isin(examples.ids, features.ids)).sum()):
        raise ValueError(f"features are missing for {missing} of {len(examples)} images")
    sample = examples.take(torch.linspace(0, len(examples) - 1, min(SAMPLE, len(examples))).long())
    expected = compute_features(network, features.depth, sample).values
    if features.pooled:
        expected = network.pooled(expected, features.depth)
    loaded = features.rows(sample.ids)
    if expected.shape != loaded.shape:
        raise ValueError(f"features must have the shape {tuple(expected.shape[1:])}, got {tuple(loaded.shape[1:])}")
    error = float((expected - loaded).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not error <= TOLERANCE:
        raise ValueError(
            f"features differ from those of the network (relative error {error:.1e}, limit {TOLERANCE:.0e})"
        )


@torch.no_grad()
def prefix_seconds(network: LayeredNetwork, depth: int, parts: list[Labelled], *, batch_size: int) -> float:
    """Return the seconds of one pass of all pixels through the first blocks, in training batches."""
    was_training = network.training
    network.eval()
    device = network.device
    synchronize(device)
    began = time.perf_counter()
    for part in parts:
        for inputs, _ in chunks(part, batch_size, prepare=scaling(network)):
            network.run_blocks(inputs, 0, depth)
    synchronize(device)
    seconds = time.perf_counter() - began
    network.train(was_training)
    return seconds
