"""Which augmentation `augment=auto` is."""

from __future__ import annotations

import pytest
import torch

from pipeline.data.examples import Examples
from pipeline.data.preprocessing import Geometry
from pipeline.data.records import Images
from pipeline.data.splits import Split
from pipeline.params import TrainBaseParams
from pipeline.stages.augment import resolve_augment


def split(dataset: str, shape: tuple[int, int, int]) -> Split:
    images = Images(torch.zeros(2, *shape, dtype=torch.uint8), torch.arange(2), torch.arange(2))
    geometry = Geometry(size=shape[1:], channels=1 if shape[0] == 1 else 3)
    part = Examples(images, torch.arange(2), torch.arange(2))
    return Split(dataset, "", "", (0, 1), ("a", "b"), ("a", "b"), geometry, part, part, part)


@pytest.mark.parametrize(
    ("dataset", "shape", "expected"),
    [
        ("mnist", (1, 28, 28), "none"),
        ("mnist", (3, 32, 32), "none"),  # for a base of color images
        ("torchvision:EMNIST/letters", (3, 64, 64), "none"),
        ("folder:letters", (1, 39, 64), "none"),
        ("folder:scans", (1, 40, 64), "crop_flip"),
        ("folder:photos", (3, 24, 24), "crop_flip"),
        ("torchvision:CIFAR10", (3, 32, 32), "crop_flip"),
        ("torchvision:SVHN", (3, 32, 32), "none"),
    ],
)
def test_photos_are_augmented_and_digits_are_not(dataset: str, shape: tuple[int, int, int], expected: str) -> None:
    assert resolve_augment(TrainBaseParams(), split(dataset, shape)) == expected


def test_frozen_blocks_get_no_augmented_images_by_default() -> None:
    photos = split("folder:photos", (3, 64, 64))
    assert resolve_augment(TrainBaseParams(), photos, frozen=1) == "none"
    assert resolve_augment(TrainBaseParams(augment="trivial"), photos, frozen=1) == "trivial"
