"""One fold of a trial: train on the other folds, and score on its held-out images.

Early stopping uses a validation split of the fold's training images, never the held-out ones.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.data.stratified import stratified_split
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


def score_fold(
    architecture: MLPArchitecture | CNNArchitecture,
    settings: FitSettings,
    data: Labelled,
    *,
    ids: Tensor,
    held_out: Tensor,
    number: int,
    val_fraction: float,
    device: torch.device,
    on_epoch: Callable[[], None] = lambda: None,
) -> Metrics:
    """Train on one fold and return the metrics on its held-out images.

    Args:
        architecture: Architecture of the network.
        settings: Settings of the fit; the seed of the fold is derived from theirs.
        data: All training images, on the CPU.
        ids: int64 (N,), identities of the images.
        held_out: int64 indices of the held-out images of the fold.
        number: Number of the fold, from 1.
        val_fraction: Fraction of the training images of the fold that is used for early stopping.
        device: Device for training and scoring.
        on_epoch: Called after every epoch.

    Raises:
        NonFiniteLossError: Training diverged.
    """
    began = time.perf_counter()
    seed = derive_seed(settings.seed, "fold", number)
    indices = torch.ones(len(data.labels), dtype=torch.bool).index_fill(0, held_out, False).nonzero().flatten()
    rows = stratified_split(data.labels[indices], ids[indices], val_fraction, seed=seed)
    network = build_network(architecture, generator(seed, "weights")).to(device)
    train, validation, test = (data.take(part, device) for part in (indices[rows[0]], indices[rows[1]], held_out))
    fit = Fit(network, train, validation, settings=replace(settings, seed=seed))
    for _ in fit:
        on_epoch()
    result = evaluate(network, test, probabilities=False)
    return {
        "fold/accuracy": result.accuracy,
        "fold/precision": result.precision,
        "fold/loss": result.loss,
        "fold/epochs": fit.progress.epoch,
        "time/fold_seconds": time.perf_counter() - began,
    }
