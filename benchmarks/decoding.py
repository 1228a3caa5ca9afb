"""Decoding a folder of images into a store against independent Pillow processes, and the second start.

    python -m benchmarks --only decoding --here --rounds 7 --results /tmp/decoding.json

The baseline is one plain process per core that opens, converts, resizes, crops and drops its share of the same files;
both sides include the start of their processes (run like this, none of them imports torch). Ours hashes files and
pixels, and writes the store, too. The second start is compared with listing the folder with `os.scandir`.
`BENCH_IMAGES=FOLDER` measures a folder of your own as well.
"""  # fmt: skip

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.alone import run_alone
from benchmarks.pillow_peer import seconds_of_pillow
from benchmarks.rows import Options, Row
from pipeline.data.preprocessing import Geometry
from pipeline.data.sources.registry import load_dataset

TARGET = 1.11  # 0.9 of the baseline's rate
SECOND_START_GOAL = 1.0
SMALL, PHOTO = Geometry(size=(32, 32), channels=3), Geometry(size=(224, 224), channels=3)


def write_jpegs(root: Path, count: int, size: tuple[int, int]) -> Path:
    """Write different JPEG files of (width, height) `size`, in ten classes."""
    generator = np.random.default_rng(0)
    for number in range(count):
        folder = root / str(number % 10)
        folder.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    return root


def seconds_to_load(folder: Path, geometry: Geometry) -> float:
    """Return the wall-clock seconds of `load_dataset`, which decodes unless the state folder has the images."""
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        load_dataset(f"folder:{folder}", "data", geometry=geometry)
    return time.perf_counter() - began


def seconds_to_list(folder: str) -> float:
    """Return the wall-clock seconds of listing a folder with the state of every file."""
    began = time.perf_counter()
    folders = [folder]
    while folders:
        for entry in os.scandir(folders.pop()):
            if entry.is_dir():
                folders.append(entry.path)
            else:
                entry.stat()
    return time.perf_counter() - began


@contextlib.contextmanager
def empty_state() -> Iterator[None]:
    """Use a state folder of its own."""
    before = os.environ.get("PIPELINE_STATE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PIPELINE_STATE_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["PIPELINE_STATE_DIR"]
            else:
                os.environ["PIPELINE_STATE_DIR"] = before


def decoding_row(what: str, folder: Path, geometry: Geometry, *, rounds: int) -> Row:
    """Time both sides in alternating rounds."""
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(seconds_of_pillow(folder, (geometry.size[1], geometry.size[0])))
        with empty_state():
            ours.append(seconds_to_load(folder, geometry))
    return Row(f"decode {what}", "one Pillow process per core", ours, theirs, target=TARGET)


def second_start_row(folder: Path, rounds: int) -> Row:
    """Time the second start of unchanged files."""
    with empty_state():
        seconds_to_load(folder, SMALL)
        pairs = [(seconds_to_load(folder, SMALL), seconds_to_list(str(folder))) for _ in range(rounds)]
    ours, theirs = zip(*pairs, strict=True)
    count = sum(path.is_file() for path in folder.rglob("*"))
    return Row(f"second start, {count} unchanged files", "os.scandir and stat", ours, theirs, goal=SECOND_START_GOAL)


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    scale = 20 if options.dataset == "digits" else 1
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for count in (1_000 // scale, 4_000 // scale):
            photos = write_jpegs(root / f"photos{count}", count, (500, 375))
            rows.append(decoding_row(f"{count} photos of 500x375 to 224x224", photos, PHOTO, rounds=options.few))
        icons = write_jpegs(root / "small", 20_000 // scale, (32, 32))
        rows.append(decoding_row(f"{20_000 // scale} images of 32x32", icons, SMALL, rounds=options.few))
        many = write_jpegs(root / "many", 60_000 // scale, (32, 32))
        rows.append(second_start_row(many, options.rounds))
    if own := os.environ.get("BENCH_IMAGES"):
        rows.append(decoding_row(own, Path(own), SMALL, rounds=1))
        rows.append(second_start_row(Path(own), options.rounds))
    return rows


if __name__ == "__main__":
    run_alone(measure)
