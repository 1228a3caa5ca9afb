"""One epoch of the default CNN over stored images against the same images as scaled tensors in memory.

    python -m benchmarks.stored_images [--rounds 7]

Random 32x32 RGB images in a memory-mapped file in the page cache, one thread, CPU time.
"""  # fmt: skip

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.alone import run_alone
from benchmarks.harness import alternate, endless, project_arm
from benchmarks.rows import Options, Row
from pipeline.data.preprocessing import Preprocessing
from pipeline.networks.build import build_network
from pipeline.networks.from_params import architecture_from_params
from pipeline.networks.layered import LayeredNetwork
from pipeline.params import TrainBaseParams
from pipeline.runtime import generator
from pipeline.training.records import Labelled

SHAPE, CLASSES, BATCH = (3, 32, 32), 10, 128
IMAGES = 12_800
IN_MEMORY, STORED = "scaled tensors in memory", "stored"
TARGETS = {STORED: 1.05, "stored, crop_flip": None, "stored, trivial": None}


def color_cnn() -> LayeredNetwork:
    """Return the default CNN for 32x32 RGB images."""
    params = TrainBaseParams(model="cnn", augment="none")
    preprocessing = Preprocessing(size=SHAPE[1:], channels=3)
    architecture = architecture_from_params(params, preprocessing, tuple(map(str, range(CLASSES))))
    return build_network(architecture, generator(0, "weights"))


def write_images(path: Path, count: int) -> Tensor:
    """Write random images to a raw file, and return them memory-mapped: uint8 (count, C, H, W)."""
    block = torch.randint(0, 256, (min(count, 50_000), *SHAPE), dtype=torch.uint8, generator=generator(0, "images"))
    with path.open("wb") as file:
        for begin in range(0, count, len(block)):
            file.write(block[: count - begin].numpy().data)
    return torch.from_file(str(path), size=count * block[0].numel(), dtype=torch.uint8).view(count, *SHAPE)


def random_labels(count: int) -> Tensor:
    """Return labels int64 (count,)."""
    return torch.randint(0, CLASSES, (count,), generator=generator(0, "labels"))


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    torch.set_num_threads(1)
    network, settings = color_cnn(), endless(BATCH)
    with tempfile.TemporaryDirectory() as folder:
        pixels, labels = write_images(Path(folder) / "images", IMAGES), random_labels(IMAGES)
        scaled, stored = Labelled(network.scale(pixels), labels), Labelled(pixels, labels, torch.arange(IMAGES))
        arms = {
            IN_MEMORY: project_arm(network, settings, train=scaled, test=scaled),
            STORED: project_arm(network, settings, train=stored, test=scaled),
            "stored, crop_flip": project_arm(
                network, replace(settings, augment="crop_flip"), train=stored, test=scaled
            ),
            "stored, trivial": project_arm(network, replace(settings, augment="trivial"), train=stored, test=scaled),
        }
        timings = alternate({name: arm.epoch for name, arm in arms.items()}, options.rounds, clock=time.process_time)
    return [
        Row(f"CNN epoch, {IMAGES} RGB images, {name}", IN_MEMORY, timings[name].seconds, timings[IN_MEMORY].seconds,
            target=target)
        for name, target in TARGETS.items()
    ]  # fmt: skip


if __name__ == "__main__":
    run_alone(measure)
