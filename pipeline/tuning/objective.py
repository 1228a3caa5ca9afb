"""One trial: the same hyperparameters trained on K stratified folds, each scored on its held-out images.

Early stopping watches a validation split of the fold's own training images, never the held-out ones.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.data.stratified import stratified_cut
from pipeline.networks.build import build_network
from pipeline.networks.layered import CNNArchitecture, MLPArchitecture
from pipeline.runtime import derive_seed, generator
from pipeline.training.evaluate import evaluate
from pipeline.training.loop import Fit
from pipeline.training.records import FitSettings, Labelled

Metrics = dict[str, float]


def summarize(folds: list[Metrics]) -> Metrics:
    """Return a trial's metrics: means over its folds, the standard deviation of the accuracy, total seconds."""
    accuracies = [fold["fold/accuracy"] for fold in folds]
    return {
        "cv/accuracy": statistics.fmean(accuracies),
        "cv/accuracy_std": statistics.stdev(accuracies) if len(folds) > 1 else 0.0,
        "cv/precision": statistics.fmean(fold["fold/precision"] for fold in folds),
        "cv/loss": statistics.fmean(fold["fold/loss"] for fold in folds),
        "cv/folds": len(folds),
        "time/trial_seconds": sum(fold["time/fold_seconds"] for fold in folds),
    }


def score_folds(
    architecture: MLPArchitecture | CNNArchitecture,
    settings: FitSettings,
    data: Labelled,
    *,
    ids: Tensor,
    folds: list[Tensor],
    val_fraction: float,
    device: torch.device,
    on_epoch: Callable[[], None] = lambda: None,
) -> Iterator[Metrics]:
    """Train and score one fold after the other, and yield the metrics of each on its held-out images.

    Args:
        architecture: Of the network.
        settings: Of each fit; a fold's seed is derived from theirs.
        data: All training images, on the CPU.
        ids: int64 (N,), their identities.
        folds: int64 indices of each fold's held-out images.
        val_fraction: Fraction of the other images that is used for early stopping.
        device: For training and scoring.
        on_epoch: Called after every epoch.

    Raises:
        NonFiniteLossError: Training diverged.
    """
    for number, held_out in enumerate(folds, 1):
        began = time.perf_counter()
        seed = derive_seed(settings.seed, "fold", number)
        indices = torch.ones(len(data.labels), dtype=torch.bool).index_fill(0, held_out, False).nonzero().flatten()
        cut = stratified_cut(data.labels[indices], ids[indices], val_fraction, seed=seed)
        network = build_network(architecture, generator(seed, "weights")).to(device)
        train, validation, test = (data.take(part, device) for part in (indices[cut[0]], indices[cut[1]], held_out))
        fit = Fit(network, train, validation, replace(settings, seed=seed))
        for _ in fit:
            on_epoch()
        result = evaluate(network, test, probabilities=False)
        yield {
            "fold/accuracy": result.accuracy,
            "fold/precision": result.precision,
            "fold/loss": result.loss,
            "fold/epochs": fit.progress.epoch,
            "time/fold_seconds": time.perf_counter() - began,
        }
