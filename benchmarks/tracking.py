"""What tracking costs an epoch: the same training with and without a run of a sqlite store.

    python -m benchmarks.tracking [--rounds 9] [--epochs 10]

Metrics are written to a journal and delivered by a background thread. Expect at most 2 % of an epoch at batch 128.
"""  # fmt: skip

from __future__ import annotations

import copy
import os
import tempfile

import click
import torch

from benchmarks.harness import alternate, machine, ratios
from pipeline.data.sources import load_dataset
from pipeline.data.splits import split_for_base
from pipeline.networks.build import build_network
from pipeline.params import TrainBaseParams
from pipeline.runtime import generator
from pipeline.stages.common import architecture_of
from pipeline.tracking.run import StageRun, stage_run
from pipeline.training.loop import Fit, FitSettings, Labelled


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--epochs", default=10, show_default=True, help="epochs a round")
def main(threads: int, rounds: int, epochs: int) -> None:
    """Print both times and their ratio."""
    torch.set_num_threads(threads)
    params = TrainBaseParams()
    dataset = load_dataset("auto", os.path.abspath(params.data_dir))
    split = split_for_base(dataset, params.class_numbers, val_fraction=params.val_fraction, seed=0)
    network = build_network(architecture_of(params, split), generator(0, "weights"))
    train, validation = (Labelled(network.scale(part.pixels), part.labels) for part in (split.train, split.validation))
    settings = FitSettings(epochs, epochs, 128, 1e-3, 1e-4, seed=0, weight_averaging=0.998)

    def fit(run: StageRun | None) -> None:
        for record in Fit(copy.deepcopy(network), train, validation, settings):
            if run is not None:
                run.log_epoch(record)

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with stage_run(params, name="benchmark", note="", tags={}) as run:
            found = alternate({"tracked": lambda: fit(run), "untracked": lambda: fit(None)}, rounds)
    print(f"{machine()}; {split.dataset}, {len(train.labels)} images, {rounds} rounds of {epochs} epochs")
    print(f"tracked {found['tracked']}, untracked {found['untracked']}")
    print(f"tracking costs {100 * (ratios(found, 'untracked')['tracked'] - 1):+.1f} % of an epoch (median over rounds)")


if __name__ == "__main__":
    main()
