"""Cross-validating one setting, five folds, in a study's running worker pool, in units of one autograd fold.

    python -m benchmarks.folds [--rounds 7]

The unit is one fold's fit and scoring by autograd with every thread that PyTorch takes by itself; a study of several
trials of the same setting then feeds one pool of two single-threaded workers, and what counts is how long a trial
takes once every worker has finished its first one: processes are started once a study. Weights are averaged on both
sides; every trial is an MLflow run.
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
from pipeline.data.sources.registry import load_dataset
from pipeline.data.splits import choose_classes
from pipeline.data.stratified import cut_folds
from pipeline.networks.build import build_network
from pipeline.networks.layered import MLPArchitecture
from pipeline.params import TrainBaseParams, TuneParams
from pipeline.runtime import Runtime, generator
from pipeline.stages.training_run import fit_settings
from pipeline.stages.tune import tune
from pipeline.training.records import Labelled
from pipeline.tuning.objective import score_folds

FOLDS, WORKERS, EPOCHS, TRIALS, ROUNDS = 5, 2, 3, 6, 2
TARGETS = {32: 2.2, 128: 3.3, 512: 4.5}
PEER = "one autograd fold, all threads"


class Unit:
    """One fold by autograd, and the floor of all."""

    def __init__(self, options: Options, epochs: int = EPOCHS, folds: int = FOLDS):
        self.epochs, self.count = epochs, folds
        self.params = TrainBaseParams(dataset=options.dataset)
        dataset = load_dataset(self.params.dataset, self.params.data_dir)
        examples = choose_classes(dataset.train, self.params.class_numbers, dataset)
        self.architecture = MLPArchitecture(
            image_shape=(1, 28, 28), classes=tuple(self.params.class_numbers), width=100, hidden_layers=5
        )
        self.network = build_network(self.architecture, generator(0, "scale"))
        self.data = Labelled(self.network.scale(examples.pixels), examples.labels)
        self.folds = cut_folds(examples.labels, folds, 0)

    def seconds(self, batch_size: int, gradients: Literal["auto", "autograd"] = "autograd") -> tuple[float, float]:
        """Return the wall-clock of one fold with the whole machine, and its accuracy."""
        runtime = Runtime(torch.device("cpu"), torch.float32, torch.get_num_threads())
        settings = fit_settings(self.params, runtime).for_fold(self.epochs, self.epochs)
        settings = replace(settings, batch_size=batch_size, gradients=gradients)
        began = time.perf_counter()
        scores = score_folds(
            self.architecture, settings, self.data, folds=self.folds, val_fraction=0.1, device=runtime.device
        )
        metrics = next(scores)
        return time.perf_counter() - began, metrics["fold/accuracy"]

    def floor(self, batch_size: int) -> float:
        """Return what all folds cannot take less than on two threads, each a fold: products and bytes."""
        count = int(len(self.data.labels) * (self.count - 1) / self.count * 0.9)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        began = time.perf_counter()
        products_floor(self.network, count, batch_size)()
        bytes_floor(self.network, self.data.values[:count], batch_size)()
        taken = time.perf_counter() - began
        torch.set_num_threads(threads)
        return taken * self.epochs * self.count / WORKERS


def trial_seconds(place: Workplace, unit: Unit, batch_size: int, number: int, trials: int) -> tuple[float, float]:
    """Run a study of one setting, and return seconds a trial and the mean fold accuracy."""
    space, name = place.folder / "space.yaml", f"batch {batch_size} round {number}"
    space.write_text(f"batch_size: [{batch_size}]\n", encoding="utf-8")
    asked = TuneParams(
        dataset=unit.params.dataset, trials=trials, folds=FOLDS, fold_epochs=unit.epochs, fold_patience=unit.epochs,
        workers=WORKERS, pruner="none", sampler="random", refit=False, space=str(space), study=name,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        tune(asked)
    study = optuna.load_study(study_name=name, storage="sqlite:///optuna.db")
    done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert len(done) == trials, f"{len(done)} of {trials} trials are complete"
    ends = sorted(trial.datetime_complete for trial in done if trial.datetime_complete)
    accuracy = sum(trial.value or 0.0 for trial in done) / trials
    return (ends[-1] - ends[WORKERS - 1]).total_seconds() / (trials - WORKERS), accuracy


def measure(options: Options) -> list[Row]:
    """Return the rows of this part."""
    rows = []
    os.environ.pop("OMP_NUM_THREADS", None)  # workers set their own
    with workplace() as place, place.entered():
        unit = Unit(options)
        for size, target in TARGETS.items():
            unit.seconds(size)  # warms up
            ours, theirs = [], []
            for number in range(ROUNDS):
                theirs.append(unit.seconds(size))
                ours.append(trial_seconds(place, unit, size, number, TRIALS))
            what = f"cross-validation, {FOLDS} folds of {unit.epochs} epochs, batch {size}, a trial"
            rows.append(
                Row(what, PEER, [seconds for seconds, _ in ours], [seconds for seconds, _ in theirs], target=target,
                    floor=unit.floor(size), accuracy=ours[-1][1], peer_accuracy=theirs[-1][1])
            )  # fmt: skip
    return rows


if __name__ == "__main__":
    run_alone(measure)
