"""Seconds a trial: this project's `tune` against Optuna driving skorch through scikit-learn's `cross_val_score`.

    make .venv-bench/.installed && .venv/bin/python -m benchmarks.tune

Both get the same settings (drawn once, by the project's study), folds, epochs and images, without early stopping,
pruning and refit, in turns. Ours is the whole command, imports included, over its trials; the peer uses the whole
machine, as it does when nobody tells it otherwise, is timed from its first trial on, and runs the first few of the
settings: all cost the same, since what is searched changes no shape.
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
TARGET = 0.25  # four times as many trials an hour
BATCH_SIZE = 128
ROUNDS = 2


@dataclass(frozen=True)
class Size:
    """How much is searched."""

    trials: int = 20
    peer_trials: int = 2
    folds: int = 5
    epochs: int = 10


def project(place: Workplace, options: Options, size: Size) -> tuple[float, list[tuple[dict[str, float], float]]]:
    """Run the study as a command, and return its seconds and what every trial tried and reached."""
    (place.folder / "space.yaml").write_text(SPACE, encoding="utf-8")
    asked: dict[str, object] = {
        "dataset": options.dataset, "trials": size.trials, "folds": size.folds, "fold_epochs": size.epochs,
        "fold_patience": size.epochs, "pruner": "none", "sampler": "random", "refit": "false", "space": "space.yaml",
        "study": STUDY, "batch_size": BATCH_SIZE,
    }  # fmt: skip
    done = place.python("-m", "pipeline", "tune", *stage_options(asked))
    study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{place.folder / 'optuna.db'}")
    trials = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert len(trials) == size.trials, f"{len(trials)} of {size.trials} trials are complete"
    return done.seconds, [(trial.params, trial.value or 0.0) for trial in trials]


def peer(place: Workplace, options: Options, size: Size, settings: list[dict[str, float]]) -> list[tuple[float, float]]:
    """Run the peer on some settings, and return seconds and accuracy of each."""
    asked = {"dataset": options.dataset, "folds": size.folds, "epochs": size.epochs, "batch_size": BATCH_SIZE}
    path = place.folder / "settings.json"
    path.write_text(json.dumps({**asked, "settings": settings}), encoding="utf-8")
    done = place.run(peer_python(), "-m", "benchmarks.tune_peer", str(path))
    found: list[tuple[float, float]] = json.loads(done.output.splitlines()[-1])
    return found


def floor_seconds(options: Options, size: Size) -> float:
    """Return what a trial cannot take less than: products and bytes of its folds, on two threads."""
    return Unit(options, epochs=size.epochs, folds=size.folds).floor(BATCH_SIZE)


def measure(options: Options, size: Size | None = None) -> list[Row]:
    """Return the row of this part."""
    size = size or Size()
    ours, theirs, mine, yours = [], [], [], []
    for _ in range(ROUNDS):
        with workplace() as place:
            seconds, tried = project(place, options, size)
            found = peer(place, options, size, [setting for setting, _ in tried[: size.peer_trials]])
        ours.append(seconds / size.trials)
        theirs.append(statistics.fmean(taken for taken, _ in found))
        mine += [value for _, value in tried[: size.peer_trials]]
        yours += [value for _, value in found]
    images = f"{size.trials} trials of {size.folds} folds of {size.epochs} epochs"
    hourly = [3600 / statistics.median(paces) for paces in (ours, theirs)]
    return [
        Row(
            f"tune as a command, {images}, seconds a trial",
            PEER,
            ours,
            theirs,
            target=TARGET,
            floor=floor_seconds(options, size),
            accuracy=statistics.fmean(mine),
            peer_accuracy=statistics.fmean(yours),
            note=f"{hourly[0]:.0f} against {hourly[1]:.0f} trials an hour; the peer ran {len(yours)}",
        )
    ]


if __name__ == "__main__":
    run_alone(measure)
