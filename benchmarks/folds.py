"""Seconds per trial of five folds in a study's worker pool, against one fold with autograd on all threads.

    python -m benchmarks.folds [--rounds 7]

The study runs trials with the same hyperparameters on two single-threaded workers; time counts once each worker has
finished its first trial, because processes start once per study. Both sides use EMA; every trial is an MLflow run.
"""  # fmt: skip

from __future__ import annotations

import contextlib
import io
import os
import time
from dataclasses import replace
from typing import Literal

import optuna
import torch

from benchmarks.alone import run_alone
from benchmarks.commands import Workplace, workplace
from benchmarks.floors import bytes_floor, products_floor
from benchmarks.rows import Options, Row
from pipeline.data.classes import DIGITS
from pipeline.data.examples import select_examples
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sources.registry import load_dataset
from pipeline.data.stratified import stratified_folds
from pipeline.networks.build import build_network
from pipeline.networks.layered import MLPArchitecture
from pipeline.params import TrainBaseParams, TuneParams
from pipeline.runtime import Runtime, generator
from pipeline.stages.fit_settings import fit_settings
from pipeline.stages.tune import tune
from pipeline.training.records import Labelled
from pipeline.tuning.objective import score_fold

FOLDS, WORKERS, EPOCHS, TRIALS, ROUNDS = 5, 2, 3, 6, 2
TARGETS = {32: 2.2, 128: 3.3, 512: 4.5}
PEER = "one autograd fold, all threads"


class Unit:
    """One fold with autograd, and the floor of a trial."""

    def __init__(self, options: Options, epochs: int = EPOCHS, folds: int = FOLDS):
        self.epochs, self.count = epochs, folds
        self.params = TrainBaseParams(dataset=options.dataset, augment="none")
        dataset = load_dataset(self.params.dataset, self.params.data_dir)
        examples = select_examples(dataset.train, tuple(range(5)), dataset)
        self.architecture = MLPArchitecture(
            preprocessing=Preprocessing(size=(28, 28), channels=1), classes=DIGITS[:5], width=100, hidden_layers=5
        )
        self.network = build_network(self.architecture, generator(0, "scale"))
        self.ids = examples.ids
        self.data = Labelled(self.network.scale(examples.pixels), examples.labels)
        self.folds = stratified_folds(examples.labels, examples.ids, folds=folds, seed=0)

    def seconds(self, batch_size: int, gradients: Literal["auto", "autograd"] = "autograd") -> tuple[float, float]:
        """Return wall-clock seconds and accuracy of one fold on all threads."""
        runtime = Runtime(torch.device("cpu"), torch.float32, torch.get_num_threads())
        settings = fit_settings(self.params, runtime).for_fold(self.epochs, self.epochs)
        settings = replace(settings, batch_size=batch_size, gradients=gradients)
        began = time.perf_counter()
        metrics = score_fold(
            self.architecture,
            settings,
            self.data,
            ids=self.ids,
            held_out=self.folds[0],
            number=1,
            val_fraction=0.1,
            device=runtime.device,
        )
        return time.perf_counter() - began, metrics["fold/accuracy"]

    def floor(self, batch_size: int) -> float:
        """Return the floor of all folds on `WORKERS` threads: matrix products and bytes."""
        count = int(len(self.data.labels) * (self.count - 1) / self.count * 0.9)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        began = time.perf_counter()
        products_floor(self.network, count, batch_size)()
        bytes_floor(self.network, self.data.values[:count], batch_size)()
        seconds = time.perf_counter() - began
        torch.set_num_threads(threads)
        return seconds * self.epochs * self.count / WORKERS


def trial_seconds(place: Workplace, unit: Unit, batch_size: int, *, name: str, trials: int) -> tuple[float, float]:
    """Run a study with fixed hyperparameters; return seconds per trial and the mean fold accuracy."""
    space = place.folder / "space.yaml"
    space.write_text(f"batch_size: [{batch_size}]\n", encoding="utf-8")
    params = TuneParams(
        dataset=unit.params.dataset, trials=trials, folds=FOLDS, fold_epochs=unit.epochs, fold_patience=unit.epochs,
        workers=WORKERS, pruner="none", sampler="random", refit=False, space=str(space), study=name,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        tune(params)
    study = optuna.load_study(study_name=name, storage="sqlite:///optuna.db")
    completed = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert len(completed) == trials, f"{len(completed)} of {trials} trials are complete"
    ends = sorted(trial.datetime_complete for trial in completed if trial.datetime_complete)
    accuracy = sum(trial.value or 0.0 for trial in completed) / trials
    return (ends[-1] - ends[WORKERS - 1]).total_seconds() / (trials - WORKERS), accuracy


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    rows = []
    os.environ.pop("OMP_NUM_THREADS", None)  # workers set their own
    with workplace() as place, place.entered():
        unit = Unit(options)
        for size, target in TARGETS.items():
            unit.seconds(size)  # warm-up
            ours, theirs = [], []
            for number in range(ROUNDS):
                theirs.append(unit.seconds(size))
                ours.append(trial_seconds(place, unit, size, name=f"batch {size} round {number}", trials=TRIALS))
            what = f"cross-validation, {FOLDS} folds, {unit.epochs} epochs, batch {size}, per trial"
            rows.append(
                Row(what, PEER, [seconds for seconds, _ in ours], [seconds for seconds, _ in theirs], target=target,
                    floor=unit.floor(size), accuracy=ours[-1][1], peer_accuracy=theirs[-1][1])
            )  # fmt: skip
    return rows


if __name__ == "__main__":
    run_alone(measure)
