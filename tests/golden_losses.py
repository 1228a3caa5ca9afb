"""Golden losses of the default MLP. `python -m tests.golden_losses` prints the values of `GOLDEN`.

Three epochs on the bundled digits 0-4 with the default network, optimizer and weight averaging, on one thread, x86-64 and
torch 2.13; for both backward passes, `auto` (manual, on flat parameters) and `autograd`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from pipeline.networks.build import build_network
from pipeline.params import TrainBaseParams
from pipeline.runtime import generator
from pipeline.stages.data_loading import load_split
from pipeline.stages.training_run import fit_settings, requested_architecture, resolve_training_runtime
from pipeline.training.loop import Fit
from pipeline.training.records import Labelled

Path = Literal["auto", "autograd"]


def default_fit(path: Path) -> Fit:
    """Return an untrained `Fit` of the default MLP on the bundled digits."""
    params = TrainBaseParams(dataset="digits", epochs=3, threads=1, augment="none")
    split = load_split(params)
    network = build_network(requested_architecture(params, split), generator(params.seed, "weights"))
    settings = replace(
        fit_settings(params, resolve_training_runtime(params, network, params.batch_size)), gradients=path
    )
    data = [Labelled(network.scale(part.pixels), part.labels) for part in (split.train, split.validation)]
    return Fit(network, *data, settings)


def losses(fit: Fit) -> list[float]:
    """Train, and return the training and validation loss of each epoch."""
    return [loss for record in fit for loss in (record.train_loss, record.val_loss)]


GOLDEN: dict[Path, list[float]] = {
    "auto": [1.4775107645549657, 1.2122632265090942, 0.9328782452396088, 0.6719264984130859, 0.3997195594332701, 0.28458771109580994],
    "autograd": [1.4775107645549657, 1.2122632265090942, 0.932878280344185, 0.6719264388084412, 0.39971957643704914, 0.28458771109580994],
}  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    for one in ("auto", "autograd"):
        print(f'    "{one}": {losses(default_fit(one))},')
