"""The baseline of `tune`: Optuna, skorch and scikit-learn's cross_val_score, combined as in their documentation.

    .venv-bench/bin/python -m benchmarks.tune_peer SETTINGS.json

Prints seconds and mean accuracy per trial as JSON.
"""  # fmt: skip

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from sklearn.model_selection import PredefinedSplit, cross_val_score
from skorch import NeuralNetClassifier

from pipeline.data.classes import DIGITS
from pipeline.data.examples import select_examples
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sources.registry import load_dataset
from pipeline.data.stratified import stratified_folds
from pipeline.networks.build import build_network
from pipeline.networks.layered import MLPArchitecture
from pipeline.params import TrainBaseParams
from pipeline.runtime import generator


def classifier(setting: dict[str, float], config: dict[str, Any]) -> NeuralNetClassifier:
    """Return a randomly initialized classifier with the base MLP's architecture."""
    images = Preprocessing(size=(28, 28), channels=1)
    architecture = MLPArchitecture(preprocessing=images, classes=DIGITS[:5], hidden_layers=5, width=100)
    network = build_network(architecture, generator(0, "weights"))
    return NeuralNetClassifier(
        torch.nn.Sequential(*network.blocks, network.head),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=setting["weight_decay"],
        lr=setting["learning_rate"],
        batch_size=config["batch_size"],
        max_epochs=config["epochs"],
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )


def main() -> None:
    """Run one trial per setting."""
    config = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    params = TrainBaseParams(dataset=config["dataset"])
    dataset = load_dataset(params.dataset, params.data_dir)
    examples = select_examples(dataset.train, tuple(range(5)), dataset)
    pixels, labels = (examples.pixels.float() / 255).numpy(), examples.labels.numpy()
    fold_of = np.zeros(len(labels), dtype=int)
    for number, fold in enumerate(stratified_folds(examples.labels, examples.ids, folds=config["folds"], seed=0)):
        fold_of[fold.numpy()] = number
    folds = PredefinedSplit(fold_of)
    study = optuna.create_study(direction="maximize")
    results = []
    for setting in config["settings"]:
        study.enqueue_trial(setting)

    def objective(trial: optuna.Trial) -> float:
        setting = {
            "learning_rate": trial.suggest_float("learning_rate", 0.0005, 0.003, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 0.00001, 0.0005, log=True),
        }
        began = time.perf_counter()
        net = classifier(setting, config)
        accuracy = float(np.mean(cross_val_score(net, pixels, labels, cv=folds, scoring="accuracy")))
        results.append((time.perf_counter() - began, accuracy))
        return accuracy

    study.optimize(objective, n_trials=len(config["settings"]))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
