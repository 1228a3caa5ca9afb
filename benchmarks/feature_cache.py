"""Training the head on cached features against running the frozen blocks in every step, at equal epochs.

    python -m benchmarks.feature_cache [--threads 1] [--rounds 7]

Five frozen layers of a 5x100 MLP, a fresh head, 500 images (100 labels a digit) as in the reference study. The
theoretical ratio is that of the multiply-adds of one epoch. Expect at least 1.9 at batch 20, 2.5 at 100, 5 at 500.
"""  # fmt: skip

from __future__ import annotations

import click
import torch

from benchmarks.harness import alternate, machine, ratios
from pipeline.data.sources import load_dataset
from pipeline.data.splits import choose_classes, split_for_target
from pipeline.networks.build import build_network
from pipeline.networks.layered import MLPArchitecture
from pipeline.networks.operations import training_operations
from pipeline.networks.reuse import Reuse, reuse_network
from pipeline.params import TransferParams
from pipeline.runtime import generator
from pipeline.training.features import compute_features
from pipeline.training.loop import Fit, FitSettings, Labelled


@click.command()
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--epochs", default=20, show_default=True, help="epochs a round")
@click.option("--batch_sizes", default="20,100,500", show_default=True)
def main(threads: int, rounds: int, epochs: int, batch_sizes: str) -> None:
    """Print one line a batch size."""
    torch.set_num_threads(threads)
    params = TransferParams()
    dataset = load_dataset("auto", params.data_dir)
    classes = params.class_numbers
    split = split_for_target(dataset, classes, per_class=100, val_per_class=30, val_fraction=0.1, seed=0)
    architecture = MLPArchitecture(image_shape=split.image_shape, classes=classes)
    base = build_network(architecture, generator(0, "base"))
    network, _ = reuse_network(architecture, base, Reuse(5, 5, 5), generator(0, "head"))
    features = compute_features(network, 5, choose_classes(dataset.train, classes, dataset))
    theory = training_operations(network) / training_operations(network, start=5)
    print(f"{machine()}; {split.dataset}, {len(split.train)} images, {rounds} rounds of {epochs} epochs")
    print(
        f"all {len(features.indices)} images of the classes went through the frozen blocks in {features.seconds:.3f} s"
    )
    print(f"multiply-adds of an epoch, uncached over cached: {theory:.0f}")
    for batch_size in map(int, batch_sizes.split(",")):
        settings = FitSettings(10**6, 10**6, batch_size, 1e-3, 1e-4, seed=0, weight_averaging=0.998)
        plain = Labelled(network.scale(split.train.pixels), split.train.labels)
        cached = Labelled(features.rows(split.train.indices), split.train.labels)
        fits = {
            "uncached": Fit(network, plain, plain, settings),
            "cached": Fit(network, cached, cached, settings, start=5),
        }
        arms = {
            name: lambda fit=fit: [fit.train_epoch(epoch) for epoch in range(1, epochs + 1)]
            for name, fit in fits.items()
        }
        found = alternate(arms, rounds)
        ratio = ratios(found, "cached")["uncached"]
        print(f"batch {batch_size}: uncached {found['uncached']}, cached {found['cached']}, speed-up {ratio:.2f}")


if __name__ == "__main__":
    main()
