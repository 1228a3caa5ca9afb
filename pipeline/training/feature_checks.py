"""Validate features and labels before solving a head or scoring features."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.errors import Fault


def feature_faults(name: str, features: Tensor, labels: Tensor) -> list[Fault]:
    """Return the faults of features (must be finite floating point (N, D)) and labels (int64 (N,), at least 0)."""
    if features.dim() != 2 or not features.is_floating_point() or not features.numel():
        what = "must be floating point (N, D), N and D at least 1."
        return [
            Fault(name, f"{tuple(features.shape)} {features.dtype}", what, "Flatten the activations of each image.")
        ]
    if labels.shape != features.shape[:1] or labels.dtype != torch.int64 or int(labels.min()) < 0:
        what = f"needs one int64 label of at least 0 for each of its {len(features)} rows."
        return [Fault(name, f"labels {tuple(labels.shape)} {labels.dtype}", what, "Number the classes from 0.")]
    if invalid := int((~torch.isfinite(features)).any(1).sum()):
        what = f"not finite for {invalid} of {len(features)} images."
        return [Fault(name, None, what, "Check the images and the weights of the frozen blocks.")]
    return []


def label_faults(labels: Tensor) -> list[Fault]:
    """Return the faults of training labels (N,): at least two classes, each with an image."""
    counts = labels.bincount()
    if len(counts) < 2:
        return [Fault("labels", len(counts), "there must be at least two classes.", "Choose more classes.")]
    if missing := (counts == 0).nonzero().flatten().tolist():
        what = f"there are no images of classes {', '.join(map(str, missing))}."
        return [Fault("labels", None, what, "Add images, or number the classes from 0 without gaps.")]
    return []
