"""An epoch of the default base CNN against the classic network and against itself in a plain float32 loop.

    python -m benchmarks.cnn_epoch [--threads 2] [--rounds 5]

The classic network is conv 32 3x3, conv 32 3x3, max-pool, dense 128. Expect at most 0.25 of it and 0.8 of the same
network in a plain loop, and at least 99.2 % on the test images of digits 0-6 after two epochs.
"""  # fmt: skip

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import click

from benchmarks.harness import alternate, bare_epoch, machine, ratios
from pipeline.data.sources import load_dataset
from pipeline.data.splits import Split, split_for_base
from pipeline.networks.build import build_network
from pipeline.networks.layered import LayeredNetwork
from pipeline.params import TrainBaseParams
from pipeline.runtime import generator, resolve_runtime
from pipeline.stages.common import architecture_of, settings_of
from pipeline.training.evaluate import evaluate
from pipeline.training.loop import Fit, Labelled

CLASSIC: dict[str, Any] = {
    "channels": "32,32",
    "kernels": "3",
    "strides": "1",
    "batch_norm": False,
    "dense_dropout": 0.5,
}


def network_of(params: TrainBaseParams, split: Split) -> LayeredNetwork:
    """Return a fresh network."""
    return build_network(architecture_of(params, split), generator(params.seed, "weights"))


@click.command()
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--dtype", default="auto", show_default=True)
def main(threads: int, rounds: int, dtype: Literal["auto", "float32", "bfloat16"]) -> None:
    """Print the times, the ratios, and the accuracy after two epochs."""
    params = TrainBaseParams(model="cnn", dtype=dtype, threads=threads)
    runtime = resolve_runtime(params.device, params.dtype, params.threads, convolutional=True)
    split = split_for_base(
        load_dataset("auto", params.data_dir), params.class_numbers, val_fraction=params.val_fraction, seed=0
    )
    network = network_of(params, split)
    classic = network_of(TrainBaseParams(model="cnn", **CLASSIC), split)
    data = Labelled(network.scale(split.train.pixels), split.train.labels)
    validation = Labelled(network.scale(split.validation.pixels), split.validation.labels)
    fit = Fit(copy.deepcopy(network), data, validation, settings_of(params, runtime))
    arms: dict[str, Callable[[], object]] = {
        "project": lambda: fit.train_epoch(1),
        "same, plain float32": bare_epoch(network, data, params.batch_size),
        "classic, plain float32": bare_epoch(classic, data, params.batch_size),
    }
    found = alternate(arms, rounds)
    print(f"{machine()}; {split.dataset}, {len(split.train)} images, batch {params.batch_size}, {runtime.train_dtype}")
    for name, timing in found.items():
        print(f"{name}: {timing}, project at {ratios(found, name)['project']:.2f} of it")
    test = Labelled(network.scale(split.test.pixels), split.test.labels)
    for seed in range(3):
        again = params.model_copy(update={"seed": seed, "epochs": 2})
        two = Fit(network_of(again, split), data, validation, settings_of(again, runtime))
        list(two)
        accuracy = evaluate(two.network, test.values, test.labels).accuracy
        print(f"test accuracy after two epochs, seed {seed}: {100 * accuracy:.2f} %")


if __name__ == "__main__":
    main()
