"""Labelled images of the selected classes, as rows of an official split of a dataset.

`splits` divides them into training, validation and test images.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipeline.data.records import Dataset, Images
from pipeline.runtime import tensor_bytes


@dataclass(frozen=True)
class Examples:
    """Images of the selected classes: rows of an official split, which may be memory-mapped.

    Attributes:
        images: All images of the official split.
        rows: int64 (N,), ascending rows of `images`.
        labels: int64 (N,), 0 to K-1: index of the class among the selected ones.
    """

    images: Images
    rows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, positions: Tensor) -> Examples:
        """Return the examples at the given positions (M,)."""
        return Examples(self.images, self.rows[positions], self.labels[positions])

    def without(self, ids: Tensor) -> Examples:
        """Return the examples without those with the given identities (M,)."""
        kept = ~torch.isin(self.ids, ids)
        return self if bool(kept.all()) else self.take(kept.nonzero().flatten())

    def gather(self, positions: Tensor) -> Tensor:
        """Return the pixels uint8 (M, C, H, W) at the given positions (M,)."""
        return self.images.pixels[self.pixel_rows[positions]]

    @cached_property
    def pixels(self) -> Tensor:
        """All pixels uint8 (N, C, H, W) as a copy in memory; use `gather` for data that may exceed memory."""
        return self.images.pixels[self.pixel_rows]

    @cached_property
    def pixel_rows(self) -> Tensor:
        """Rows int64 (N,) of the images in `images.pixels`."""
        stored = self.images.pixel_rows
        return self.rows if stored is None else stored[self.rows]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.pixels.shape[1:]
        return channels, height, width

    @cached_property
    def ids(self) -> Tensor:
        """Identities int64 (N,) of the images."""
        return self.images.ids[self.rows]

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits over shape, identities and labels."""
        digest = hashlib.sha256(str((self.image_shape, len(self))).encode())
        digest.update(tensor_bytes(self.ids))
        digest.update(tensor_bytes(self.labels))
        return digest.hexdigest()[:32]

    def counts(self, classes: int) -> list[int]:
        """Return the number of images of each of `classes` classes."""
        return [int(count) for count in torch.bincount(self.labels, minlength=classes)]


def training_examples(dataset: Dataset, classes: tuple[int, ...]) -> Examples:
    """Return the training images of some classes, without those that are also in the test split."""
    return select_examples(dataset.train, classes, dataset).without(dataset.test.ids)


def validation_candidates(dataset: Dataset, classes: tuple[int, ...], pool: Examples) -> Examples:
    """Return the official validation images of some classes, or `pool` if there are none."""
    if dataset.validation is None:
        return pool
    return select_examples(dataset.validation, classes, dataset).without(dataset.test.ids)


def select_examples(images: Images, classes: tuple[int, ...], dataset: Dataset) -> Examples:
    """Return the images of some classes, relabelled 0 to K-1 in the order of `classes`."""
    new_label = torch.full((len(dataset.class_names),), -1)
    new_label[list(classes)] = torch.arange(len(classes))
    labels = new_label[images.labels]
    rows = (labels >= 0).nonzero().flatten()
    return Examples(images, rows, labels[rows])
