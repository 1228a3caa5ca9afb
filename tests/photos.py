"""Folders of noisy photos for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_photos(folder: Path, classes: tuple[str, ...], count: int = 24) -> str:
    """Write 16x16 photos, whose color distinguishes the classes, and return the folder as a dataset."""
    rng = np.random.default_rng(len(classes))
    for number, class_name in enumerate(classes):
        (folder / class_name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 120, (16, 16, 3)) + np.array([40 * number, 120 - 40 * number, 60])
            Image.fromarray(pixels.astype(np.uint8)).save(folder / class_name / f"{index:02}.png")
    return f"folder:{folder}"
