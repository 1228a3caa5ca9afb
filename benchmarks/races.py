"""Which race of folds loses least: replays on the fold scores in `fold_scores.json`, which were never pruned.

    python -m benchmarks.races                                           # print the table of docs/tuning.md
    python -m benchmarks.races --collect "MNIST 0-4, 2,000 images"       # score 60 settings again

A replay draws 20 of the settings and an order of the folds. Its loss is the best mean over all folds among the 20,
minus that of the setting that the race selects, in percentage points.
"""  # fmt: skip

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch._dynamo  # else the first fold would, at its first optimizer step
from numpy.typing import NDArray

from benchmarks.machine import machine
from pipeline.data.classes import DIGITS
from pipeline.data.examples import training_examples
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sources.registry import load_dataset
from pipeline.data.stratified import stratified_folds, stratified_split
from pipeline.networks.from_params import architecture_from_params
from pipeline.params import TrainBaseParams, TuneParams
from pipeline.training.records import FitSettings, Labelled
from pipeline.tuning.objective import score_fold
from pipeline.tuning.sampling import sample_generation
from pipeline.tuning.schedule import better_half
from pipeline.tuning.search_space import DEFAULT_SPACES, with_setting

SCORES = Path(__file__).with_name("fold_scores.json")
SETTINGS, FOLDS, TRIALS, REPLAYS = 60, 5, 20, 2000
DATA: dict[str, tuple[str, int | None]] = {  # dataset, and size of a stratified sample of its training images
    "scikit-learn's digits 0-4": ("digits", None),
    "MNIST 0-4, 2,000 images": ("mnist", 2_000),
}
CPU_SECONDS = "time/cpu_seconds"
Scores = NDArray[np.float64]  # (settings, folds): accuracies
Lengths = NDArray[np.int64]  # (settings,): how many folds a setting has run
Race = Callable[[Scores], tuple[int, Lengths]]  # returns the selected row, too


def collect(name: str, workers: int) -> dict[str, object]:
    """Score random settings of the default space for MLPs on all folds, with the default budget of a fold."""
    settings = sample_generation("random", DEFAULT_SPACES["mlp"], seed=0, earlier=[], size=SETTINGS)
    with ProcessPoolExecutor(workers) as pool:
        folds = list(pool.map(partial(score_setting, name), settings))
    scores = [[fold["fold/accuracy"] for fold in metrics] for metrics in folds]
    seconds = [[round(fold[CPU_SECONDS], 3) for fold in metrics] for metrics in folds]
    return {"machine": machine(), "settings": settings, "scores": scores, "seconds": seconds}


def score_setting(name: str, setting: dict[str, Any]) -> list[dict[str, float]]:
    """Return the metrics of a setting on each fold; runs in a worker process."""
    torch.set_num_threads(1)
    dataset_name, size = DATA[name]
    dataset = load_dataset(dataset_name, TrainBaseParams().data_dir)
    examples = training_examples(dataset, tuple(range(5)))
    if size is not None:
        examples = examples.take(stratified_split(examples.labels, examples.ids, size / len(examples), seed=0)[1])
    params = with_setting(TuneParams(), setting)
    architecture = architecture_from_params(params, Preprocessing(size=(28, 28), channels=1), DIGITS[:5])
    settings = FitSettings(
        TuneParams().fold_epochs,
        TuneParams().fold_patience,
        params.batch_size,
        params.learning_rate,
        params.weight_decay,
        seed=0,
        weight_averaging=params.weight_averaging,
    )
    folds = stratified_folds(examples.labels, examples.ids, folds=FOLDS, seed=0)
    data = Labelled(examples.pixels.float() / 255, examples.labels)
    metrics = []
    for number, held_out in enumerate(folds, 1):
        began = time.process_time()
        scored = score_fold(
            architecture,
            settings,
            data,
            ids=examples.ids,
            held_out=held_out,
            number=number,
            val_fraction=params.val_fraction,
            device=torch.device("cpu"),
        )
        metrics.append(scored | {CPU_SECONDS: time.process_time() - began})
    return metrics


def all_folds(scores: Scores) -> tuple[int, Lengths]:
    """Run all folds of all settings."""
    return int(scores.mean(axis=1).argmax()), np.full(len(scores), scores.shape[1])


def median_pruner(scores: Scores) -> tuple[int, Lengths]:
    """Prune as Optuna's MedianPruner(n_startup_trials=5, n_warmup_steps=1) does, one setting after another."""
    means = scores.cumsum(axis=1) / np.arange(1, scores.shape[1] + 1)
    lengths = np.zeros(len(scores), dtype=np.int64)
    for row, values in enumerate(means):
        complete = np.flatnonzero(lengths == scores.shape[1])
        for fold in range(len(values)):
            lengths[row] = fold + 1
            if len(complete) >= 5 and values[: fold + 1].max() < np.median(means[complete, fold]):
                break
    complete = np.flatnonzero(lengths == scores.shape[1])
    return int(complete[means[complete, -1].argmax()]), lengths


def race(scores: Scores, *, generation: int, survivors: Callable[[int], int]) -> tuple[int, Lengths]:
    """Race generations of settings, as `pipeline.tuning.schedule` does."""
    lengths = np.zeros(len(scores), dtype=np.int64)
    finalists: list[int] = []
    for start in range(0, len(scores), generation):
        rows = list(range(start, min(start + generation, len(scores))))
        for fold in range(1, scores.shape[1] + 1):
            lengths[rows] = fold
            if fold < scores.shape[1]:
                count = survivors(len(rows))
                rows = sorted(rows, key=lambda row: (-scores[row, :fold].mean(), row))[:count]
        finalists += rows
    return max(finalists, key=lambda row: float(scores[row].mean())), lengths


def third(count: int) -> int:
    """Return how many settings run the next fold if two thirds are pruned."""
    return max(1, math.ceil(count / 3))


RACES: dict[str, Race] = {
    "all folds": all_folds,
    "median pruner, one worker": median_pruner,
    "20-10-5-3-2": partial(race, generation=20, survivors=better_half),
    "10-5-3-2-2, twice": partial(race, generation=10, survivors=better_half),
    "5-3-2-2-2, four times": partial(race, generation=5, survivors=better_half),
    "20-7-3-1-1": partial(race, generation=20, survivors=third),
    "10-4-2-1-1, twice": partial(race, generation=10, survivors=third),
}


def replay(scores: Scores, seconds: Scores, race: Race) -> tuple[Scores, float, float]:
    """Return the loss of each replay in percentage points, and the shares of folds and of their time that are run."""
    rng = np.random.default_rng(0)
    losses, folds, times = [], [], []
    for _ in range(REPLAYS):
        rows, order = rng.permutation(len(scores))[:TRIALS, None], rng.permutation(scores.shape[1])
        drawn = scores[rows, order]
        selected, lengths = race(drawn)
        means = drawn.mean(axis=1)
        losses.append(100 * (means.max() - means[selected]))
        is_run = np.arange(scores.shape[1]) < lengths[:, None]
        folds.append(is_run.mean())
        times.append(seconds[rows, order][is_run].sum() / seconds[rows, order].sum())
    return np.array(losses), float(np.mean(folds)), float(np.mean(times))


@click.command()
@click.option("--collect", "names", multiple=True, type=click.Choice(list(DATA)), help="Score the settings again.")
@click.option("--workers", default=2, show_default=True)
def main(names: tuple[str, ...], workers: int) -> None:
    """Replay races on stored fold scores."""
    stored = json.loads(SCORES.read_text(encoding="utf-8")) if SCORES.exists() else {}
    for name in names:
        stored[name] = collect(name, workers)
        SCORES.write_text(json.dumps(stored, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
    print("| data | race | folds run | their time | mean loss (pp) | 95th percentile |\n|---|---|---|---|---|---|")
    for name, entry in stored.items():
        for label, chosen in RACES.items():
            losses, folds, times = replay(np.array(entry["scores"]), np.array(entry["seconds"]), chosen)
            shares = f"{100 * folds:.0f} % | {100 * times:.0f} %"
            print(f"| {name} | {label} | {shares} | {losses.mean():.3f} | {np.percentile(losses, 95):.2f} |")


if __name__ == "__main__":
    main()
