"""The baseline of `decoding`: plain Pillow processes. Imports nothing else, so that they start quickly."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
from PIL import Image


def decode_with_pillow(paths: list[str], size: tuple[int, int]) -> None:
    """Open and convert images, resize their short side, crop the center, and keep nothing."""
    for path in paths:
        with Image.open(path) as image:
            scale = max(size[0] / image.width, size[1] / image.height)
            scaled = image.convert("RGB").resize(
                (round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR
            )
            left, top = (scaled.width - size[0]) // 2, (scaled.height - size[1]) // 2
            np.asarray(scaled.crop((left, top, left + size[0], top + size[1])))


def seconds_of_pillow(folder: Path, size: tuple[int, int]) -> float:
    """Return the wall-clock seconds of one process per core that decodes its share to (width, height) `size`."""
    paths = [str(path) for path in folder.rglob("*.*") if path.is_file()]
    cores, context = len(os.sched_getaffinity(0)), multiprocessing.get_context("spawn")
    began = time.perf_counter()
    processes = [context.Process(target=decode_with_pillow, args=(paths[core::cores], size)) for core in range(cores)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return time.perf_counter() - began
