"""Trials an hour: this project's workers against Optuna driving skorch through scikit-learn's `cross_val_score`.

    pip install skorch
    python -m benchmarks.tune [--trials 4] [--folds 5] [--epochs 5] [--workers 2]

Both run the same settings (parameters drawn once), the same folds, epochs and images, without early stopping and
without pruning. Expect at least 4 times as many trials an hour.
"""  # fmt: skip

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import optuna
import torch

from benchmarks.harness import machine
from pipeline.data.sources import load_dataset
from pipeline.data.splits import choose_classes, cut_folds
from pipeline.networks.build import build_network
from pipeline.networks.layered import MLPArchitecture
from pipeline.params import TrainBaseParams, TuneParams
from pipeline.runtime import generator
from pipeline.stages.tune import tune

SPACE = "learning_rate: {low: 0.0005, high: 0.005, log: true}\nbatch_size: [64, 128, 256]\nwidth: [50, 100, 150]\n"


def peer_trial(
    setting: dict[str, Any], pixels: np.ndarray, labels: np.ndarray, folds: list[torch.Tensor], epochs: int
) -> float:
    """Score one setting with skorch and scikit-learn; returns the mean accuracy."""
    from sklearn.model_selection import PredefinedSplit, cross_val_score
    from skorch import NeuralNetClassifier

    place = np.zeros(len(labels), dtype=int)
    for number, fold in enumerate(folds):
        place[fold.numpy()] = number
    architecture = MLPArchitecture(image_shape=(1, 28, 28), classes=(0, 1, 2, 3, 4), width=setting["width"])
    network = build_network(architecture, generator(0, "weights"))
    peer = NeuralNetClassifier(
        torch.nn.Sequential(*network.blocks, network.head),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=1e-4,
        lr=setting["learning_rate"],
        batch_size=setting["batch_size"],
        max_epochs=epochs,
        train_split=None,
        verbose=0,
    )
    return float(np.mean(cross_val_score(peer, pixels, labels, cv=PredefinedSplit(place), scoring="accuracy")))


@click.command()
@click.option("--trials", default=4, show_default=True)
@click.option("--folds", default=5, show_default=True)
@click.option("--epochs", default=5, show_default=True)
@click.option("--workers", default=2, show_default=True)
def main(trials: int, folds: int, epochs: int, workers: int) -> None:
    """Run both, one after the other, and print trials an hour and their ratio."""
    params = TrainBaseParams()
    data_dir = os.path.abspath(params.data_dir)
    dataset = load_dataset("auto", data_dir)
    examples = choose_classes(dataset.train, params.class_numbers, dataset)
    cut = cut_folds(examples.labels, folds, 0)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("space.yaml").write_text(SPACE, encoding="utf-8")
        began = time.perf_counter()
        tune(
            TuneParams(
                dataset=dataset.name, data_dir=data_dir, trials=trials, folds=folds, fold_epochs=epochs,
                fold_patience=epochs, workers=workers, pruner="none", sampler="random", refit=False,
                space="space.yaml", study="ours",
            )
        )  # fmt: skip
        ours = time.perf_counter() - began
        study = optuna.load_study(study_name="ours", storage="sqlite:///optuna.db")
        settings = [trial.params for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))]
        mine = [trial.value for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))]
    pixels, labels = (examples.pixels.float() / 255).numpy(), examples.labels.numpy()
    theirs_study = optuna.create_study(direction="maximize")
    for setting in settings:
        theirs_study.enqueue_trial(setting)

    def objective(trial: optuna.Trial) -> float:
        setting = {
            "learning_rate": trial.suggest_float("learning_rate", 0.0005, 0.005, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [64, 128, 256]),
            "width": trial.suggest_categorical("width", [50, 100, 150]),
        }
        return peer_trial(setting, pixels, labels, cut, epochs)

    began = time.perf_counter()
    theirs_study.optimize(objective, n_trials=len(settings))
    theirs = time.perf_counter() - began
    print(
        f"{machine()}; {dataset.name}, {len(labels)} images, {len(settings)} trials of {folds} folds of {epochs} epochs"
    )
    print(json.dumps(settings))
    rows = [(mine, ours), ([trial.value for trial in theirs_study.trials], theirs)]
    for name, (values, seconds) in zip(("this project", "Optuna + skorch + cross_val_score"), rows, strict=True):
        mean = sum(value or 0.0 for value in values) / len(values)
        pace = 3600 * len(settings) / seconds
        print(f"{name}: {seconds:.0f} s, {pace:.0f} trials an hour, mean fold accuracy {mean:.4f}")
    print(f"ratio: {theirs / ours:.1f} times as many trials an hour")


if __name__ == "__main__":
    main()
