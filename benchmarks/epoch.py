"""An epoch of the base MLP against a bare in-memory PyTorch loop over the same tensors.

    python -m benchmarks.epoch [--threads 1] [--rounds 7]

The bare loop is what one writes by hand: a permutation, indexing, forward, backward, PyTorch's default Adam.
Both of the project's paths are timed: written-out gradients (what plain networks take) and autograd. Expect
ratios of at most 0.7 and 0.9 at batch 128, averaging of weights included.
"""  # fmt: skip

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import click
import torch

from benchmarks.harness import alternate, bare_epoch, machine, ratios
from pipeline.data.sources import load_dataset
from pipeline.data.splits import split_for_base
from pipeline.networks.build import build_network
from pipeline.networks.layered import LayeredNetwork, MLPArchitecture
from pipeline.params import TrainBaseParams
from pipeline.runtime import generator
from pipeline.training.loop import Fit, FitSettings, Labelled

ROUNDS = 7


def project_epoch(
    network: LayeredNetwork, data: Labelled, batch_size: int, gradients: Literal["auto", "autograd"]
) -> Callable[[], object]:
    """Return the training part of one epoch of `Fit`, with everything that a stage has it do."""
    settings = FitSettings(10**6, 10**6, batch_size, 1e-3, 1e-4, seed=0, weight_averaging=0.998, gradients=gradients)
    fit = Fit(copy.deepcopy(network), data, data, settings)
    return lambda: fit.train_epoch(1)


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=ROUNDS, show_default=True)
@click.option("--batch_sizes", default="20,50,128,512", show_default=True)
def main(threads: int, rounds: int, batch_sizes: str) -> None:
    """Print one line a batch size."""
    torch.set_num_threads(threads)
    params = TrainBaseParams()
    split = split_for_base(
        load_dataset("auto", params.data_dir), params.class_numbers, val_fraction=params.val_fraction, seed=0
    )
    network = build_network(
        MLPArchitecture(image_shape=split.image_shape, classes=split.classes), generator(0, "weights")
    )
    data = Labelled(network.scale(split.train.pixels), split.train.labels)
    print(f"{machine()}; {split.dataset}, {len(split.train)} images, {rounds} rounds; median (range)")
    for batch_size in map(int, batch_sizes.split(",")):
        arms = {
            "written-out gradients": project_epoch(network, data, batch_size, "auto"),
            "autograd": project_epoch(network, data, batch_size, "autograd"),
            "bare loop": bare_epoch(network, data, batch_size),
        }
        found = alternate(arms, rounds)
        for name, ratio in ratios(found, "bare loop").items():
            print(f"batch {batch_size}, {name}: {found[name]}, {ratio:.2f} of the bare loop", flush=True)


if __name__ == "__main__":
    main()
