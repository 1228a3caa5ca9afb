"""Prepare model inputs: small data are normalized in memory, large data are read per batch.

Both are a `Labelled`, the input of fits, evaluation, features and folds.
"""

from __future__ import annotations

import math

from torch import Tensor

from pipeline.data.examples import Examples
from pipeline.networks.layered import LayeredNetwork
from pipeline.training.features import Features, compute_features
from pipeline.training.records import IN_MEMORY_BYTES, Augment, Labelled


def model_inputs(
    network: LayeredNetwork, examples: Examples, features: Features | None = None, *, augment: Augment = "none"
) -> Labelled:
    """Return normalized pixels, or cached features, with labels on the network's device.

    Args:
        network: The network; it normalizes pixels.
        examples: The images.
        features: Cached outputs of frozen blocks, used instead of pixels.
        augment: Augmentation; unless `none`, images stay uint8 and are read per batch.
    """
    device = network.device
    labels = examples.labels.to(device)
    if features is not None:
        if not features.has_all(examples.ids):  # images of an official validation split
            features = compute_features(network, features.depth, examples)
        rows = features.positions(examples.ids)
        if fits_memory(features.values, len(rows)):
            return Labelled(features.values[rows].to(device), labels)
        return Labelled(features.values, labels, rows)
    if augment == "none" and fits_memory(examples.images.pixels, len(examples)):
        return Labelled(network.scale(examples.pixels.to(device)), labels)
    return Labelled(examples.images.pixels, labels, examples.pixel_rows)


def fits_memory(source: Tensor, count: int) -> bool:
    """Return whether `count` rows of a tensor are small enough to keep in memory as float32."""
    return 4 * count * math.prod(source.shape[1:]) <= IN_MEMORY_BYTES
