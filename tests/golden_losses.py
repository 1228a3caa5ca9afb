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
from pipeline.stages.fit_settings import fit_settings, requested_architecture, resolve_training_runtime
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
    return Fit(network, *data, settings=settings)


def losses(fit: Fit) -> list[float]:
    """Train, and return the training and validation loss of each epoch."""
    return [loss for record in fit for loss in (record.train_loss, record.val_loss)]


GOLDEN: dict[Path, list[float]] = {
    "auto": [1.4647274694906542, 1.1970913410186768, 0.8721398602503049, 0.6200622320175171, 0.35520579333000996, 0.2648232877254486],
    "autograd": [1.4647274894192588, 1.1970913410186768, 0.8721398602503049, 0.6200622916221619, 0.3552057685098387, 0.2648232877254486],
}  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    for one in ("auto", "autograd"):
        print(f'    "{one}": {losses(default_fit(one))},')
