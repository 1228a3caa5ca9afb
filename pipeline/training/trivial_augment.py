"""TrivialAugment with an operation and a strength per image, computed in batches.

torchvision's `TrivialAugmentWide` samples one operation and one strength per call, so per batch. Operations, strengths,
nearest-neighbor sampling and black fill are the same here.

Source: Mueller and Hutter 2021, TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation (the wide space).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.data.torchvision_import import torchvision_functional

BINS = 31  # equidistant strengths
MAX_SHEAR, MAX_SHIFT, MAX_DEGREES, MAX_CHANGE, MAX_BITS = 0.99, 32, 135, 0.99, 6

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]  # images (B, C, H, W), strengths in [0, 1] (B,), signs (B,)


def trivial_augment(pixels: Tensor, draws: Tensor) -> Tensor:
    """Apply one operation to each image.

    Args:
        pixels: uint8 (B, C, H, W), C = 1 or 3.
        draws: float32 (B, 3) in [0, 1): operation, strength and sign.
    """
    numbers = (draws[:, 0] * len(OPERATIONS)).long()
    strengths = (draws[:, 1] * BINS).floor().div(BINS - 1).to(pixels.device)
    signs = torch.where(draws[:, 2] < 0.5, -1.0, 1.0).to(pixels.device)
    result = pixels.clone()
    for number in numbers.unique().tolist():
        members = (numbers == number).nonzero().flatten().to(pixels.device)
        operation = OPERATIONS[number]
        result[members] = operation(pixels[members], strengths[members], signs[members])
    return result


def _identity(images: Tensor, strengths: Tensor, signs: Tensor) -> Tensor:
    return images


def _shear_x(images: Tensor, strengths: Tensor, signs: Tensor) -> Tensor:
    slope = MAX_SHEAR * strengths * signs
    return _warp(images, xy=slope, x=slope * images.shape[2] / 2)


def _shear_y(images: Tensor, strengths: Tensor, signs: Tensor) -> Tensor:
    slope = MAX_SHEAR * strengths * signs
    return _warp(images, yx=slope, y=slope * images.shape[3] / 2)


def _translate_x(images: Tensor, strengths: Tensor, signs: Tensor) -> Tensor:
    return _warp(images, x=-(MAX_SHIFT * strengths * signs).trunc())


def _translate_y(images: Tensor, strengths: Tensor, signs: Tensor) -> Tensor:
    return _warp(images, y=-(MAX_SHIFT * strengths * signs).trunc())


def _rotate(images: Tensor, strengths: Tensor, signs: Tensor) -> Tensor:
    angle = math.radians(MAX_DEGREES) * strengths * signs
    return _warp(images, xx=angle.cos(), xy=-angle.sin(), yx=angle.sin(), yy=angle.cos())


def _warp(
    images: Tensor,
    *,
    xx: Tensor | float = 1.0,
    xy: Tensor | float = 0.0,
    x: Tensor | float = 0.0,
    yx: Tensor | float = 0.0,
    yy: Tensor | float = 1.0,
    y: Tensor | float = 0.0,
) -> Tensor:
    """Apply an affine map: pixel (X, Y) is the one nearest to (xx X + xy Y + x, yx X + yy Y + y), or black.

    Coordinates are in pixels from the center of the image; coefficients are scalars, or one per image (B,).
    """
    size, channels, height, width = images.shape
    device = images.device
    xx, xy, x, yx, yy, y = (torch.as_tensor(part, device=device).view(-1, 1, 1) for part in (xx, xy, x, yx, yy, y))
    to_right = (torch.arange(width, device=device) - (width - 1) / 2).view(1, 1, -1)
    down = (torch.arange(height, device=device) - (height - 1) / 2).view(1, -1, 1)
    columns = (xx * to_right + xy * down + x + (width - 1) / 2).round().long()
    rows = (yx * to_right + yy * down + y + (height - 1) / 2).round().long()
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    indices = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    indices = indices.expand(size, -1, -1).reshape(size, 1, -1).expand(-1, channels, -1)
    return images.flatten(2).gather(2, indices).view_as(images) * inside.unsqueeze(1)


def _brightness(images: Tensor, strengths: Tensor, signs: Tensor) -> Tensor:
    return _blend(images, torch.zeros_like(images), strengths * signs)


def _color(images: Tensor, strengths: Tensor, signs: Tensor) -> Tensor:
    return _blend(images, torchvision_functional().adjust_saturation(images, 0.0), strengths * signs)


def _contrast(images: Tensor, strengths: Tensor, signs: Tensor) -> Tensor:
    return _blend(images, torchvision_functional().adjust_contrast(images, 0.0), strengths * signs)


def _sharpness(images: Tensor, strengths: Tensor, signs: Tensor) -> Tensor:
    return _blend(images, torchvision_functional().adjust_sharpness(images, 0.0), strengths * signs)


def _blend(images: Tensor, neutral: Tensor, change: Tensor) -> Tensor:
    """Move images away from (change > 0) or towards (change < 0) a neutral version."""
    factor = (1 + MAX_CHANGE * change).view(-1, 1, 1, 1)
    return (factor * images + (1 - factor) * neutral).clamp(0, 255).to(torch.uint8)


def _posterize(images: Tensor, strengths: Tensor, signs: Tensor) -> Tensor:
    dropped = 8 - (8 - MAX_BITS * strengths).round().to(torch.uint8).view(-1, 1, 1, 1)
    return (images >> dropped) << dropped


def _solarize(images: Tensor, strengths: Tensor, signs: Tensor) -> Tensor:
    threshold = (255 * (1 - strengths)).view(-1, 1, 1, 1)
    return torch.where(images >= threshold, 255 - images, images)


def _autocontrast(images: Tensor, strengths: Tensor, signs: Tensor) -> Tensor:
    result: Tensor = torchvision_functional().autocontrast(images)
    return result


def _equalize(images: Tensor, strengths: Tensor, signs: Tensor) -> Tensor:
    result: Tensor = torchvision_functional().equalize(images)
    return result


OPERATIONS: tuple[Operation, ...] = (
    _identity, _shear_x, _shear_y, _translate_x, _translate_y, _rotate, _brightness, _color, _contrast, _sharpness,
    _posterize, _solarize, _autocontrast, _equalize,
)  # fmt: skip
