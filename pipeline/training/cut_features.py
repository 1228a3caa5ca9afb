"""Pooled features at several cuts of a network, computed in one pass over the images.

They suffice to train a head on frozen blocks. Like all features, they require eval mode and no augmentation.

Legend: N images, D units of a cut.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.examples import Examples
from pipeline.networks.build import weights_digest
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.tensor_file import allocate_tensor_file
from pipeline.training.batches import chunks, scaling
from pipeline.training.chunks import chunk_size
from pipeline.training.features import Features, fingerprint_digest
from pipeline.training.records import Labelled

IDS = "ids"
PREFIX = "cut_"  # of a tensor's name in the file, followed by the number of blocks below the cut


@dataclass(frozen=True)
class CutFeatures:
    """Pooled features of the same images at several cuts.

    Attributes:
        tensors: `ids`, int64 (N,), and `cut_D` for each depth D, float32 (N, D units); may be memory-mapped.
        seconds: Wall-clock time of the pass.
    """

    tensors: dict[str, Tensor]
    seconds: float

    @property
    def cuts(self) -> tuple[int, ...]:
        """Depths of the cuts, ascending."""
        return tuple(sorted(int(name.removeprefix(PREFIX)) for name in self.tensors if name != IDS))

    def at(self, depth: int) -> Features:
        """Return the features of one cut."""
        return Features(self.tensors[f"{PREFIX}{depth}"], self.tensors[IDS], depth, {}, self.seconds, pooled=True)


def cut_fingerprint(network: LayeredNetwork) -> str:
    """Return a digest of everything that features depend on except the images."""
    blocks = {name: value for name, value in network.state_dict().items() if name.startswith("blocks.")}
    preprocessing = network.architecture.preprocessing.model_dump_json()
    return fingerprint_digest({"weights": weights_digest(blocks), "preprocessing": preprocessing, "kind": "pooled"})


def unique_images(parts: Sequence[Examples]) -> list[Examples]:
    """Return the parts, each image in the first part that has it; empty parts are left out."""
    ids = torch.zeros(0, dtype=torch.int64)
    unique = []
    for part in parts:
        unique.append(part.without(ids))
        ids = torch.cat([ids, part.ids])
    return [part for part in unique if len(part)]


@torch.no_grad()
def compute_cut_features(
    network: LayeredNetwork, cuts: Sequence[int], parts: Sequence[Examples], *, path: Path
) -> CutFeatures:
    """Run images through a network once, and write the pooled activations of all cuts to a memory-mapped file.

    Args:
        network: On its device; its mode is restored.
        cuts: Numbers of blocks, at least 1.
        parts: The images.
        path: Of the safetensors file.

    Raises:
        DiskFullError: The file does not fit on the disk.
    """
    began = time.perf_counter()
    was_training = network.training
    network.eval()
    parts = unique_images(parts)
    count = sum(map(len, parts))
    widths = cut_widths(network, cuts)
    shapes = {f"{PREFIX}{depth}": (torch.float32, (count, width)) for depth, width in widths.items()}
    tensors = allocate_tensor_file(path, {IDS: (torch.int64, (count,)), **shapes})
    tensors[IDS].copy_(torch.cat([part.ids for part in parts]))
    done = 0
    for part in parts:
        data = Labelled(part.images.pixels, part.labels.to(network.device), part.pixel_rows)
        for values, _ in chunks(data, chunk_size(network, part.image_shape), prepare=scaling(network)):
            for depth, pooled in pooled_activations(network, values, cuts):
                tensors[f"{PREFIX}{depth}"][done : done + len(values)] = pooled
            done += len(values)
    network.train(was_training)
    return CutFeatures(tensors, time.perf_counter() - began)


def pooled_activations(network: LayeredNetwork, values: Tensor, cuts: Sequence[int]) -> list[tuple[int, Tensor]]:
    """Return depth and pooled activations (B, D) of each cut, for scaled pixels (B, C, H, W)."""
    activations = []
    for depth in range(1, max(cuts) + 1):
        values = network.run_blocks(values, depth - 1, depth)
        if depth in cuts:
            activations.append((depth, network.pooled(values, depth)))
    return activations


@torch.no_grad()
def cut_widths(network: LayeredNetwork, cuts: Sequence[int]) -> dict[int, int]:
    """Return the number of units after pooling, by depth of the cut."""
    was_training = network.training
    network.eval()
    image = torch.zeros(1, *network.architecture.image_shape, device=network.device)
    widths = {depth: values.shape[1] for depth, values in pooled_activations(network, image, cuts)}
    network.train(was_training)
    return widths
