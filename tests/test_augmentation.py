"""Augmentation: per image, reproducible, independent of batches; parity with torchvision's operations."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.data.torchvision_import import torchvision_functional
from pipeline.runtime import generator
from pipeline.training.augmentation import DRAWS, Augmentation, crop_flip
from pipeline.training.records import Augment
from pipeline.training.trivial_augment import BINS, OPERATIONS, trivial_augment

KINDS: tuple[Augment, ...] = ("flip", "crop_flip", "trivial")


def photos(count: int, channels: int = 3, side: int = 32, seed: int = 0) -> Tensor:
    """Smooth random images, so that one pixel differs little from the next."""
    coarse = torch.rand(count, channels, 4, 4, generator=generator(seed, "photos"))
    return (255 * torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")).to(torch.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_one_batch_are_augmented_differently(kind: Augment) -> None:
    same = photos(1).expand(64, -1, -1, -1).contiguous()
    augmented = Augmentation(kind, 64, seed=0, epoch=1)(same, torch.arange(64))
    different = {bytes(image.numpy().tobytes()) for image in augmented}
    assert len(different) == 2 if kind == "flip" else len(different) > 20


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(cuts=st.sets(st.integers(1, 19), max_size=5), seed=st.integers(0, 99), channels=st.sampled_from([1, 3]))
def test_augmentation_does_not_depend_on_the_batches(kind: Augment, cuts: set[int], seed: int, channels: int) -> None:
    images, order = photos(20, channels, 12), torch.randperm(20, generator=generator(seed, "order"))
    whole = Augmentation(kind, 20, seed=seed, epoch=3)(images, torch.arange(20))
    again = Augmentation(kind, 20, seed=seed, epoch=3)
    parts = [again(images[part], part) for part in torch.tensor_split(order, sorted(cuts))]
    assert torch.equal(torch.cat(parts), whole[order])
    assert whole.dtype == torch.uint8 and whole.shape == images.shape


@pytest.mark.parametrize("kind", KINDS)
def test_augmentation_differs_between_epochs(kind: Augment) -> None:
    first, second, other_seed = (
        Augmentation(kind, 50, seed=seed, epoch=epoch).draws for seed, epoch in ((0, 1), (0, 2), (1, 1))
    )
    assert not torch.equal(first, second) and not torch.equal(first, other_seed)


def test_flip_mirrors_half_of_the_images() -> None:
    images, draws = photos(1000), torch.rand(1000, DRAWS, generator=generator(0, "draws"))
    found = crop_flip(images, draws, crop=False)
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert torch.equal(mirrored, draws[:, 0] < 0.5) and 400 < int(mirrored.sum()) < 600
    assert torch.equal(found[~mirrored], images[~mirrored])


@given(
    height=st.integers(1, 40), width=st.integers(1, 40), flip=st.booleans(),
    vertical=st.floats(0, 1, exclude_max=True, width=32), horizontal=st.floats(0, 1, exclude_max=True, width=32),
)  # fmt: skip
def test_crop_equals_reflected_padding_and_slicing(
    height: int, width: int, flip: bool, vertical: float, horizontal: float
) -> None:
    image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    found = crop_flip(image, torch.tensor([[0.0 if flip else 0.9, vertical, horizontal]]), crop=True)
    tall, wide = (min(max(1, side // 8), side - 1) for side in (height, width))
    padded = torch.nn.functional.pad((image.flip(3) if flip else image).float(), (wide, wide, tall, tall), "reflect")
    top, left = int(vertical * (2 * tall + 1)), int(horizontal * (2 * wide + 1))
    assert torch.equal(found.float(), padded[:, :, top : top + height, left : left + width])


def test_crops_of_32_pixels_move_by_up_to_4() -> None:
    places = torch.arange(32, dtype=torch.uint8).expand(500, 1, 32, 32).contiguous()
    draws = torch.rand(500, DRAWS, generator=generator(0, "draws"))
    draws[:, 0] = 0.9
    moved = crop_flip(places, draws, crop=True)[:, 0, 0, 16].long() - 16
    assert sorted(set(moved.tolist())) == list(range(-4, 5))


def shear(image: Tensor, x: float, y: float) -> Tensor:
    shears = [math.degrees(math.atan(slope)) for slope in (x, y)]
    result: Tensor = torchvision_functional().affine(image, 0.0, [0, 0], 1.0, shears, center=[0, 0])
    return result


def translate(image: Tensor, x: float, y: float) -> Tensor:
    result: Tensor = torchvision_functional().affine(image, 0.0, [int(x), int(y)], 1.0, [0.0, 0.0])
    return result


F = torchvision_functional()
TORCHVISION: tuple[Callable[[Tensor, float, float], Tensor], ...] = (  # image, strength in [0, 1], sign
    lambda image, strength, sign: image,
    lambda image, strength, sign: shear(image, 0.99 * strength * sign, 0),
    lambda image, strength, sign: shear(image, 0, 0.99 * strength * sign),
    lambda image, strength, sign: translate(image, 32 * strength * sign, 0),
    lambda image, strength, sign: translate(image, 0, 32 * strength * sign),
    lambda image, strength, sign: F.rotate(image, 135 * strength * sign),
    lambda image, strength, sign: F.adjust_brightness(image, 1 + 0.99 * strength * sign),
    lambda image, strength, sign: F.adjust_saturation(image, 1 + 0.99 * strength * sign),
    lambda image, strength, sign: F.adjust_contrast(image, 1 + 0.99 * strength * sign),
    lambda image, strength, sign: F.adjust_sharpness(image, 1 + 0.99 * strength * sign),
    lambda image, strength, sign: F.posterize(image, round(8 - 6 * strength)),
    lambda image, strength, sign: F.solarize(image, 255 * (1 - strength)),
    lambda image, strength, sign: F.autocontrast(image),
    lambda image, strength, sign: F.equalize(image),
)


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
@pytest.mark.parametrize("channels", [1, 3])
def test_trivial_operations_match_torchvision(number: int, channels: int) -> None:
    """Up to two gray levels; at the borders between pixels, rounding chooses either one."""
    bins = torch.arange(BINS).repeat(2)
    strengths, signs = bins / (BINS - 1), torch.tensor([1.0, -1.0]).repeat_interleave(BINS)
    images = photos(len(bins), channels)
    draws = torch.stack([torch.full((len(bins),), (number + 0.5) / len(OPERATIONS)), (bins + 0.5) / BINS, signs], 1)
    found = trivial_augment(images, draws)
    expected = torch.stack(
        [TORCHVISION[number](*triple) for triple in zip(images, strengths.tolist(), signs.tolist(), strict=True)]
    )
    differing = (found.long() - expected.long()).abs() > 2
    assert float(differing.float().mean()) < (0.02 if 1 <= number <= 5 else 1e-9)
    assert number == 0 or (channels == 1 and number == 7) or not torch.equal(found, images)
