"""Training the head on cached features against running the frozen blocks in every step, at equal epochs.

    python -m benchmarks.feature_cache [--rounds 7]

An MLP with five frozen layers of 5x100, and a CNN with its first block frozen; a fresh head; 100 labels a digit as
in the reference studies; one thread, which is what threads=auto takes for steps that small.
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
from pipeline.data.sources.registry import load_dataset
from pipeline.data.splits import choose_classes, split_for_target
from pipeline.networks.build import build_network
from pipeline.networks.macs import training_macs
from pipeline.networks.reuse import Reuse, reuse_network
from pipeline.params import TrainBaseParams, TransferParams, parse_classes
from pipeline.runtime import generator
from pipeline.stages.training_run import requested_architecture
from pipeline.training.features import compute_features
from pipeline.training.records import Labelled

EPOCHS = 20  # a round: one epoch is too short to time
TARGETS = {20: 0.53, 100: 0.4, 500: 0.2}
CNN_TARGET = 0.9


def measure_family(options: Options, model: str, classes: str, frozen: int, targets: dict[int, float]) -> list[Row]:
    """Return one row a batch size."""
    params, wanted = TransferParams(dataset=options.dataset), parse_classes(classes)
    dataset = load_dataset(params.dataset, params.data_dir)
    per_class = 100 if dataset.name != "digits" else 50
    split = split_for_target(dataset, wanted, per_class=per_class, val_per_class=30, val_fraction=0.1, seed=0)
    changes: dict[str, Any] = {"model": model, "classes": classes}
    architecture = requested_architecture(TrainBaseParams(**changes), split)
    base = build_network(architecture, generator(0, "base"))
    blocks = len(base.blocks)
    network, _ = reuse_network(architecture, base, Reuse(blocks, frozen, blocks), generator=generator(0, "head"))
    features = compute_features(network, frozen, choose_classes(dataset.train, wanted, dataset))
    theory = training_macs(network) / training_macs(network, start=frozen)
    note = f"multiply-adds say {1 / theory:.2f}; the cache took {features.seconds:.3f} s"
    pixels = Labelled(network.scale(split.train.pixels), split.train.labels)
    test = Labelled(network.scale(split.test.pixels), split.test.labels)
    cached = Labelled(features.rows(split.train.indices), split.train.labels)
    rows = []
    for size, target in targets.items():
        arms = {
            "cached": project_arm(network, cached, cached, endless(size), start=frozen),
            "uncached": project_arm(network, pixels, test, endless(size)),
        }
        timed: dict[str, Callable[[], object]] = {name: partial(epochs_of, arm) for name, arm in arms.items()}
        count = len(pixels.labels)
        timed["products"] = products_floor(network, EPOCHS * count, size, start=frozen)
        timed["bytes"] = bytes_floor(network, cached.values.repeat(EPOCHS, *[1] * (cached.values.dim() - 1)), size)
        found = alternate(timed, options.rounds)
        floor = sum(statistics.median(found[name].seconds) for name in ("products", "bytes"))
        what = f"{model.upper()}, {frozen} blocks frozen and cached, batch {size}, {EPOCHS} epochs of {count} images"
        rows.append(Row(what, "the same uncached", found["cached"].seconds, found["uncached"].seconds,
                        target=target, floor=floor, note=note))  # fmt: skip
    return rows


def epochs_of(arm: Arm) -> None:
    """Train for as many epochs as a round has."""
    for _ in range(EPOCHS):
        arm.epoch()


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    torch.set_num_threads(1)
    return [
        *measure_family(options, "mlp", "5-9", 5, TARGETS),
        *measure_family(options, "cnn", "7-9", 1, {20: CNN_TARGET}),
    ]


if __name__ == "__main__":
    run_alone(measure)
