"""Training on cached features against running the frozen blocks in every step, for the same number of epochs.

    python -m benchmarks.feature_cache [--rounds 7]

A 5x100 MLP with all layers frozen, and a CNN with its first block frozen; 100 labels per class as in the reference
plans; one thread, which is what threads=auto resolves to for steps this small.
"""  # fmt: skip

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.alone import run_alone
from benchmarks.floors import bytes_floor, products_floor
from benchmarks.harness import Arm, alternate, endless, project_arm
from benchmarks.rows import Options, Row
from pipeline.data.examples import select_examples
from pipeline.data.sources.registry import load_dataset
from pipeline.data.splits import LabelSample, split_for_target
from pipeline.networks.build import build_network
from pipeline.networks.macs import training_macs
from pipeline.networks.reuse import Reuse, reuse_network
from pipeline.params import TrainBaseParams, TransferParams, parse_classes
from pipeline.runtime import generator
from pipeline.stages.fit_settings import requested_architecture
from pipeline.training.features import compute_features
from pipeline.training.records import Labelled

EPOCHS = 20  # per round: a single epoch is too short to time
TARGETS = {20: 0.53, 100: 0.4, 500: 0.2}
CNN_TARGET = 0.9


def measure_family(options: Options, model: str, classes: str, *, frozen: int, targets: dict[int, float]) -> list[Row]:
    """Return one row per batch size."""
    params, labels = TransferParams(dataset=options.dataset), parse_classes(classes)
    dataset = load_dataset(params.dataset, params.data_dir)
    per_class = 100 if dataset.name != "digits" else 50
    split = split_for_target(dataset, labels, LabelSample(per_class, val_per_class=30, val_fraction=0.1, seed=0))
    changes: dict[str, Any] = {"model": model, "classes": classes}
    architecture = requested_architecture(TrainBaseParams(**changes), split)
    base = build_network(architecture, generator(0, "base"))
    blocks = len(base.blocks)
    network, _ = reuse_network(architecture, base, Reuse(blocks, frozen, blocks), generator=generator(0, "head"))
    features = compute_features(network, frozen, select_examples(dataset.train, labels, dataset))
    theory = training_macs(network) / training_macs(network, start=frozen)
    note = f"expected from MACs: {1 / theory:.2f}; computing the cache took {features.seconds:.3f} s"
    pixels = Labelled(network.scale(split.train.pixels), split.train.labels)
    test = Labelled(network.scale(split.test.pixels), split.test.labels)
    cached = Labelled(features.rows(split.train.ids), split.train.labels)
    rows = []
    for size, target in targets.items():
        arms = {
            "cached": project_arm(network, endless(size), train=cached, test=cached, start=frozen),
            "uncached": project_arm(network, endless(size), train=pixels, test=test),
        }
        timed: dict[str, Callable[[], object]] = {name: partial(train_epochs, arm) for name, arm in arms.items()}
        count = len(pixels.labels)
        timed["products"] = products_floor(network, EPOCHS * count, size, start=frozen)
        timed["bytes"] = bytes_floor(network, cached.values.repeat(EPOCHS, *[1] * (cached.values.dim() - 1)), size)
        timings = alternate(timed, options.rounds)
        floor = sum(statistics.median(timings[name].seconds) for name in ("products", "bytes"))
        what = f"{model.upper()}, cached blocks: {frozen}, batch {size}, {EPOCHS} epochs of {count} images"
        rows.append(Row(what, "same, uncached", timings["cached"].seconds, timings["uncached"].seconds,
                        target=target, floor=floor, note=note))  # fmt: skip
    return rows


def train_epochs(arm: Arm) -> None:
    """Train for one round."""
    for _ in range(EPOCHS):
        arm.epoch()


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    torch.set_num_threads(1)
    return [
        *measure_family(options, "mlp", "5-9", frozen=5, targets=TARGETS),
        *measure_family(options, "cnn", "7-9", frozen=1, targets={20: CNN_TARGET}),
    ]


if __name__ == "__main__":
    run_alone(measure)
