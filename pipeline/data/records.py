"""A data set in memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Labelled images in memory.

    Attributes:
        pixels: uint8 (N, C, H, W), 0-255.
        labels: int64 (N,), class numbers of the data set.
    """

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Dataset:
    """A data set with its test split.

    Attributes:
        name: `mnist`, `digits`, `folder:PATH`, ...
        train: For training and validation.
        test: Read by the final evaluation only.
        class_names: Name of class k at index k.
        source: Path of its files, or name of the package that bundles it.
        note: How it was chosen and where it was read from.
    """

    name: str
    train: Images
    test: Images
    class_names: tuple[str, ...]
    source: str
    note: str
