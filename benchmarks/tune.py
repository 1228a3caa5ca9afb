"""Seconds per trial: this project's `tune` against Optuna with skorch and scikit-learn's `cross_val_score`.

    make .venv-bench/.installed && .venv/bin/python -m benchmarks.tune

Both get the same hyperparameters (sampled by the project's study), folds, epochs and images, without early stopping,
pruning and refit. Ours is the whole command with its imports; the baseline uses all threads (its default), is timed
from its first trial, and runs only the first few trials (no searched parameter changes the cost of a trial).
"""  # fmt: skip

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass

import optuna

from benchmarks.alone import run_alone
from benchmarks.commands import Workplace, peer_python, stage_options, workplace
from benchmarks.folds import Unit
from benchmarks.rows import Options, Row

SPACE = "learning_rate: {low: 0.0005, high: 0.003, log: true}\nweight_decay: {low: 0.00001, high: 0.0005, log: true}\n"
PEER = "Optuna + skorch + cross_val_score"
STUDY = "benchmark"
TARGET = 0.25  # four times as many trials per hour
BATCH_SIZE = 128
ROUNDS = 2


@dataclass(frozen=True)
class Size:
    """Size of the study."""

    trials: int = 20
    peer_trials: int = 2
    folds: int = 5
    epochs: int = 10


def project(place: Workplace, options: Options, size: Size) -> tuple[float, list[tuple[dict[str, float], float]]]:
    """Run the study as a command; return its seconds, and parameters and value of every trial."""
    (place.folder / "space.yaml").write_text(SPACE, encoding="utf-8")
    values: dict[str, object] = {
        "dataset": options.dataset, "trials": size.trials, "folds": size.folds, "fold_epochs": size.epochs,
        "fold_patience": size.epochs, "pruner": "none", "sampler": "random", "refit": "false", "space": "space.yaml",
        "study": STUDY, "batch_size": BATCH_SIZE,
    }  # fmt: skip
    result = place.python("-m", "pipeline", "tune", *stage_options(values))
    study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{place.folder / 'optuna.db'}")
    trials = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert len(trials) == size.trials, f"{len(trials)} of {size.trials} trials are complete"
    return result.seconds, [(trial.params, trial.value or 0.0) for trial in trials]


def peer(
    place: Workplace, options: Options, size: Size, *, settings: list[dict[str, float]]
) -> list[tuple[float, float]]:
    """Run the baseline with each of `settings`; return seconds and accuracy of each."""
    config = {"dataset": options.dataset, "folds": size.folds, "epochs": size.epochs, "batch_size": BATCH_SIZE}
    path = place.folder / "settings.json"
    path.write_text(json.dumps({**config, "settings": settings}), encoding="utf-8")
    result = place.run(peer_python(), "-m", "benchmarks.tune_peer", str(path))
    trials: list[tuple[float, float]] = json.loads(result.output.splitlines()[-1])
    return trials


def floor_seconds(options: Options, size: Size) -> float:
    """Return the floor of a trial: matrix products and bytes of its folds, on two threads."""
    return Unit(options, epochs=size.epochs, folds=size.folds).floor(BATCH_SIZE)


def measure(options: Options, size: Size | None = None) -> list[Row]:
    """Return the row of this part."""
    size = size or Size()
    ours, theirs, mine, yours = [], [], [], []
    for _ in range(ROUNDS):
        with workplace() as place:
            seconds, trials = project(place, options, size)
            settings = [setting for setting, _ in trials[: size.peer_trials]]
            peer_trials = peer(place, options, size, settings=settings)
        ours.append(seconds / size.trials)
        theirs.append(statistics.fmean(seconds for seconds, _ in peer_trials))
        mine += [value for _, value in trials[: size.peer_trials]]
        yours += [value for _, value in peer_trials]
    what = f"tune command, {size.trials} trials, {size.folds} folds, {size.epochs} epochs, seconds per trial"
    hourly = [3600 / statistics.median(paces) for paces in (ours, theirs)]
    return [
        Row(
            what,
            PEER,
            ours,
            theirs,
            target=TARGET,
            floor=floor_seconds(options, size),
            accuracy=statistics.fmean(mine),
            peer_accuracy=statistics.fmean(yours),
            note=f"{hourly[0]:.0f} vs. {hourly[1]:.0f} trials per hour (baseline: {len(yours)} trials)",
        )
    ]


if __name__ == "__main__":
    run_alone(measure)
