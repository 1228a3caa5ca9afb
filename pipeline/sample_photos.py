"""`python -m pipeline sample_photos PATH`: draw a folder of small color photos to try the project with.

Each image shows one shape, the class, of any color, size, position and rotation on a shaded, noisy background; image
sizes vary as those of photos do. Images depend on the seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from pipeline.console import echo
from pipeline.errors import invalid

SIDES = (64, 112)  # range of an image's width and of its height, in pixels
NOISE = 14  # standard deviation, in gray levels

Point = tuple[float, float]


def polygon(corners: int, inner: float = 1.0) -> list[Point]:
    """Return the corners of a regular polygon of radius 1; every other one is at `inner`, which makes a star."""
    angles = [2 * math.pi * number / corners for number in range(corners)]
    radii = [inner if number % 2 else 1.0 for number in range(corners)]
    return [(radius * math.sin(angle), -radius * math.cos(angle)) for angle, radius in zip(angles, radii, strict=True)]


def cross(arm: float = 0.32) -> list[Point]:
    """Return the corners of a plus sign with arms of half-width `arm`."""
    quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    corners = list(quarter)
    for _ in range(3):
        quarter = [(-y, x) for x, y in quarter]
        corners += quarter
    return corners


OUTLINES: dict[str, Callable[[], list[Point]]] = {
    "circle": lambda: polygon(48),
    "cross": cross,
    "hexagon": lambda: polygon(6),
    "square": lambda: polygon(4),
    "star": lambda: polygon(10, inner=0.45),
    "triangle": lambda: polygon(3),
}


def sample_photos(path: Path, *, per_class: int = 60, seed: int = 0) -> None:
    """Write `per_class` images of each class to `path/CLASS/`, which must not exist yet.

    Raises:
        UserInputError: `path` exists and is not an empty folder, or cannot be written.
    """
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise invalid("path", path, "exists already.", remedy="Give a new folder.")
        for number, name in enumerate(OUTLINES):
            (path / name).mkdir(parents=True, exist_ok=True)
            for index in range(per_class):
                image = draw(OUTLINES[name](), np.random.default_rng((seed, number, index)))
                image.save(path / name / f"{name}_{index:03d}.jpg", quality=90)
    except OSError as error:
        raise invalid("path", path, f"cannot be written: {error.strerror}.", remedy="Give another folder.") from None
    echo(f"{len(OUTLINES)} classes with {per_class} photos each in {path}: {', '.join(OUTLINES)}")


def draw(outline: list[Point], rng: np.random.Generator) -> Image.Image:
    """Return an RGB image of the outline on a background whose color runs from one corner to another."""
    width, height = (int(side) for side in rng.integers(*SIDES, size=2))
    slope = rng.uniform(-1, 1, (2, 3))
    rows, columns = np.linspace(-1, 1, height)[:, None, None], np.linspace(-1, 1, width)[None, :, None]
    base = rng.uniform(40, 215, 3)
    image = Image.fromarray(np.clip(base + 40 * (rows * slope[0] + columns * slope[1]), 0, 255).astype(np.uint8))
    color = (base + rng.choice([-1, 1], 3) * rng.uniform(70, 150, 3)) % 256
    radius = rng.uniform(0.28, 0.46) * min(width, height)
    center = (rng.uniform(radius, width - radius), rng.uniform(radius, height - radius))
    corners = _placed(outline, center=center, radius=radius, angle=rng.uniform(-math.pi / 9, math.pi / 9))
    ImageDraw.Draw(image).polygon(corners, fill=(int(color[0]), int(color[1]), int(color[2])))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2))), dtype=np.float64)
    return Image.fromarray(np.clip(blurred + rng.normal(0, NOISE, blurred.shape), 0, 255).astype(np.uint8))


def _placed(outline: list[Point], *, center: Point, radius: float, angle: float) -> list[Point]:
    """Return the corners after rotation by an angle (rad), scaling and translation, in pixels."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return [
        (center[0] + radius * (x * cosine - y * sine), center[1] + radius * (x * sine + y * cosine)) for x, y in outline
    ]
