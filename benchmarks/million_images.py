"""`train_base` on a million stored images: peak anonymous memory, and time per image against 60,000.

    python -m benchmarks.million_images [--images 1000000] [--model mlp] [--rounds 1]

Writes a folder of empty files and a store of random 32x32 RGB images for them, as if they had been decoded before, in a
temporary folder (3 GB per million), and runs the command for one epoch. Anonymous memory is `RssAnon` of the
command and its child processes, sampled; pages of the memory-mapped store do not count. Linux only.
"""  # fmt: skip

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import psutil

from benchmarks.commands import Workplace, run_id_of, stage_options, workplace
from benchmarks.machine import machine
from pipeline.data.decode import Pixels
from pipeline.data.file_splits import concatenate_tables
from pipeline.data.folder_listing import list_folder
from pipeline.data.preprocessing import Geometry
from pipeline.data.store.files import RECORD
from pipeline.data.store.image_store import StoreKey, images_folder, store_array
from pipeline.data.store.manifest import Manifest, write_manifest

CLASSES, PART = 10, 10_000
GEOMETRY = Geometry(size=(32, 32), channels=3)
REFERENCE_IMAGES = 60_000
SAMPLE_SECONDS = 0.05
MAX_ANONYMOUS_MB, MAX_RATIO = 1200, 1.1


@dataclass(frozen=True)
class Measurement:
    """One run of the command.

    Attributes:
        images: Number of images.
        peak_mb: Peak anonymous memory, in MB.
        microseconds: Time of the epoch, validation included, per training or validation image.
        seconds: Wall-clock time of the command.
    """

    images: int
    peak_mb: float
    microseconds: float
    seconds: float

    def __str__(self) -> str:
        """Return the measurement as one line."""
        return (
            f"{self.images:>9,} images: peak RssAnon {self.peak_mb:,.0f} MB, {self.microseconds:.1f} us per image, "
            f"{self.seconds:.1f} s in total"
        )


def write_stored_folder(root: Path, images: int) -> None:
    """Write empty image files and their store, which must be loaded without decoding."""
    for number in range(CLASSES):
        folder = root / f"class{number}"
        folder.mkdir(parents=True)
        for index in range(number, images, CLASSES):
            (folder / f"{index:07}.jpg").touch()
    listing = list_folder(str(root), root)
    source = f"folder:{listing.root}"
    files = concatenate_tables(source, listing.root, listing.splits, class_names=listing.class_names).files
    records = np.zeros(images, RECORD)
    records["done"], records["height"], records["width"] = 1, *GEOMETRY.size
    records["id"] = np.random.default_rng(1).permutation(images).astype(np.int64) * (2**63 // images)
    records["digest"] = np.stack((records["id"], records["id"]), axis=1).view("V16")[:, 0]
    store_array(source, random_parts(records), StoreKey(records, GEOMETRY))
    write_manifest(images_folder(), files, Manifest(records, {}))


def random_parts(records: np.ndarray) -> Iterator[Pixels]:
    """Yield random images uint8 (n, C, H, W), and fill in their checksums."""
    rng = np.random.default_rng(0)
    for first in range(0, len(records), PART):
        part = records[first : first + PART]
        pixels = rng.integers(0, 256, (len(part), *GEOMETRY.image_shape), np.uint8)
        part["crc"] = [zlib.crc32(image) for image in pixels]
        yield pixels


def anonymous_bytes(process: psutil.Process) -> int:
    """Return the anonymous resident memory of a process and its children."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        lines = Path(f"/proc/{member.pid}/status").read_text(encoding="utf-8").splitlines()
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    return total


def run_sampled(words: list[str], place: Workplace) -> tuple[str, int]:
    """Run a command; return its output and its peak anonymous memory in bytes."""
    log, peak = place.folder / "output.txt", 0
    with log.open("w", encoding="utf-8") as output:
        process = psutil.Popen(words, cwd=place.folder, env=place.environment, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            with contextlib.suppress(OSError, psutil.NoSuchProcess):  # a process has just ended
                peak = max(peak, anonymous_bytes(process))
            time.sleep(SAMPLE_SECONDS)
    text = log.read_text(encoding="utf-8")
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} failed:\n{text}")
    return text, peak


def measure(place: Workplace, folder: Path, images: int, model: str) -> Measurement:
    """Run `train_base` on a folder for one epoch."""
    options = {"dataset": f"folder:{folder}", "model": model, "epochs": 1}
    began = time.perf_counter()
    output, peak = run_sampled([sys.executable, "-m", "pipeline", "train_base", *stage_options(options)], place)
    seconds = time.perf_counter() - began
    run_id = run_id_of(output)
    passed = images - place.metric(run_id, "data/test_images")  # trained on or validated on
    return Measurement(images, peak / 1e6, 1e6 * place.metric(run_id, "time/fit_seconds") / passed, seconds)


@click.command()
@click.option("--images", default=1_000_000, show_default=True, help="Number of stored images.")
@click.option("--model", default="mlp", show_default=True, type=click.Choice(["mlp", "cnn"]))
@click.option("--rounds", default=1, show_default=True, help="Interleaved rounds.")
def main(images: int, model: str, rounds: int) -> None:
    """Print one line per run, then the comparison with the targets."""
    print(machine())
    with workplace() as place:
        place.environment["PIPELINE_STATE_DIR"] = os.environ["PIPELINE_STATE_DIR"] = str(place.folder / "state")
        sizes = (REFERENCE_IMAGES, images)
        for size in sizes:
            write_stored_folder(place.folder / f"images{size}", size)
        few: list[Measurement] = []
        many: list[Measurement] = []
        for _ in range(rounds):
            for size, results in zip(sizes, (few, many), strict=True):
                results.append(measure(place, place.folder / f"images{size}", size, model))
                print(results[-1], flush=True)
    ratio = statistics.median(b.microseconds / a.microseconds for a, b in zip(few, many, strict=True))
    peak = max(result.peak_mb for result in many)
    print(f"peak RssAnon {peak:,.0f} MB (target {MAX_ANONYMOUS_MB:,})")
    print(f"time per image: {ratio:.2f} times that of {REFERENCE_IMAGES:,} images (target {MAX_RATIO})")


if __name__ == "__main__":
    main()
