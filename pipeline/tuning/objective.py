"""One trial: the same setting trained on K stratified folds, each scored on the part it has not seen.

Early stopping inside a fold watches a slice of the fold's own training part, never the part it is scored on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.data.stratified import stratified_cut
from pipeline.networks.build import build_network
from pipeline.networks.layered import CNNArchitecture, MLPArchitecture
from pipeline.runtime import derive_seed, generator
from pipeline.training.evaluate import evaluate
from pipeline.training.loop import Fit
from pipeline.training.records import FitSettings, Labelled


@dataclass(frozen=True)
class FoldScore:
    """What one fold showed.

    Attributes:
        fold: From 1.
        accuracy: On the fold's held-out part.
        precision: Macro average, likewise.
        loss: Mean cross-entropy, likewise, in nats.
        epochs: How many were trained.
        seconds: Wall-clock of training and scoring.
    """

    fold: int
    accuracy: float
    precision: float
    loss: float
    epochs: int
    seconds: float


def score_folds(
    architecture: MLPArchitecture | CNNArchitecture,
    settings: FitSettings,
    data: Labelled,
    folds: list[Tensor],
    *,
    val_fraction: float,
    device: torch.device,
    watch: Callable[[], None] = lambda: None,
) -> Iterator[FoldScore]:
    """Train and score one setting fold by fold.

    Args:
        architecture: What to build.
        settings: How to train; `seed` is the study's, and each fold derives its own.
        data: All training images of the classes, in the processor's memory: scaled pixels and labels.
        folds: The places of each fold's held-out part.
        val_fraction: The share of a fold's training part that early stopping watches.
        device: Where to train and score.
        watch: Called after every epoch.

    Raises:
        NonFiniteLossError: Training diverged.
    """
    for number, held_out in enumerate(folds, 1):
        began = time.perf_counter()
        seed = derive_seed(settings.seed, "fold", number)
        inside = torch.ones(len(data.labels), dtype=torch.bool)
        inside[held_out] = False
        places = inside.nonzero().flatten()
        kept, watched = (
            places[part] for part in stratified_cut(data.labels[places], val_fraction, seed=seed, purpose="validation")
        )
        network = build_network(architecture, generator(seed, "weights")).to(device)
        train, validation, test = (_take(data, part, device) for part in (kept, watched, held_out))
        fit = Fit(network, train, validation, replace(settings, seed=seed))
        for _ in fit:
            watch()
        found = evaluate(network, test.values, test.labels)
        seconds = time.perf_counter() - began
        yield FoldScore(number, found.accuracy, found.precision, found.loss, fit.progress.epoch, seconds)


def _take(data: Labelled, places: Tensor, device: torch.device) -> Labelled:
    return Labelled(data.values[places].to(device), data.labels[places].to(device))
