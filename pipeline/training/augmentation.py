"""Augmentation of training images: sampled per image, computed per batch.

The random numbers depend on (seed, epoch) and the position of an image in the training data only. Batch size, batch
order and interruptions do not change the augmentation of an image. `trivial_augment` has the operations of `trivial`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.runtime import generator
from pipeline.training.records import Augment

CROP_FRACTION = 8  # a crop shifts by up to an eighth of the side: 4 pixels at 32
DRAWS = 3  # random numbers per image: flip and two offsets, or operation, strength and sign


class Augmentation:
    """The augmentation of one epoch.

    Args:
        kind: `flip` mirrors half of the images; `crop_flip` also shifts each, with reflection padding; `trivial`
            applies one random operation of random strength to each.
        count: Number of training images.
        seed: Seed of the fit.
        epoch: Number of the epoch, from 1.
    """

    def __init__(self, kind: Augment, count: int, *, seed: int, epoch: int):
        assert kind != "none", "no augmentation requested"
        self.kind = kind
        self.draws = torch.rand((count, DRAWS), generator=generator(seed, "augmentation", epoch))

    def __call__(self, pixels: Tensor, positions: Tensor) -> Tensor:
        """Return augmented images.

        Args:
            pixels: uint8 (B, C, H, W), on any device.
            positions: int64 (B,), positions of the images in the training data, on the CPU.
        """
        draws = self.draws[positions]
        if self.kind == "trivial":
            from pipeline.training.trivial_augment import trivial_augment  # imports torchvision

            return trivial_augment(pixels, draws)
        return crop_flip(pixels, draws, crop=self.kind == "crop_flip")


def crop_flip(pixels: Tensor, draws: Tensor, *, crop: bool) -> Tensor:
    """Mirror images with probability 1/2 and, with `crop`, shift them.

    Args:
        pixels: uint8 (B, C, H, W).
        draws: float32 (B, 3) in [0, 1): flip, vertical and horizontal offset.
        crop: Whether to shift each image by up to an eighth of its side in both directions.
    """
    size, channels, height, width = pixels.shape
    rows, columns = (torch.arange(side).expand(size, side) for side in (height, width))
    if crop:
        rows, columns = (
            _shifted(indices, draw, side)
            for indices, draw, side in ((rows, draws[:, 1], height), (columns, draws[:, 2], width))
        )
    columns = torch.where(draws[:, :1] < 0.5, width - 1 - columns, columns)
    indices = (rows.unsqueeze(2) * width + columns.unsqueeze(1)).view(size, 1, -1).to(pixels.device)
    return pixels.flatten(2).gather(2, indices.expand(-1, channels, -1)).view_as(pixels)


def _shifted(indices: Tensor, draw: Tensor, side: int) -> Tensor:
    """Shift indices (B, side) by an offset per image, reflecting them at the borders."""
    largest = min(max(1, side // CROP_FRACTION), side - 1)
    offset = (draw * (2 * largest + 1)).long() - largest
    last = side - 1
    return last - (last - (indices + offset.unsqueeze(1)).abs()).abs()
