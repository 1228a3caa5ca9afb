"""What to do next in a study: sample a generation of settings, run a fold of a trial, or end a trial.

A study proceeds in generations. All settings of a generation run fold 1, the better half of them fold 2, the better
half of those fold 3, and so on; the last two run all folds. A round ends when all of its folds are scored, so what is
run never depends on the number of workers or on which of them is faster. Pure functions of the study's trials.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from pipeline.tuning.objective import Metrics

GENERATION_SIZE = 10  # settings; chosen by `benchmarks.races`, see docs/tuning.md
MIN_SURVIVORS = 2  # settings of a generation that run all folds
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
# names of user attributes of a trial
GENERATION, SIZE = "generation", "generation_size"  # number of its generation, from 0; settings in that generation
FOLD_PREFIX = "fold "  # and the number of a scored fold, from 1: its metrics
DIVERGED, FAILURE, GAVE_UP = "diverged", "failure", "gave_up"  # reasons to end a trial early

Survivors = Callable[[int], int]  # from the number of settings in a round to that in the next
Trials = Sequence[FrozenTrial]


@dataclass(frozen=True)
class SampleTask:
    """Create the trials of a generation, or those that are missing after an interruption."""

    generation: int
    size: int


@dataclass(frozen=True)
class FoldTask:
    """Train and score a trial on one fold."""

    trial: int
    fold: int  # from 1


@dataclass(frozen=True)
class EndTask:
    """Log a trial's run and end the trial."""

    trial: int
    state: TrialState


Task = SampleTask | FoldTask | EndTask


def better_half(count: int) -> int:
    """Return how many of `count` settings run the next fold in a race."""
    return min(count, max(MIN_SURVIVORS, math.ceil(count / 2)))


PRUNERS: dict[str, Survivors] = {"race": better_half, "none": lambda count: count}


def open_tasks(trials: Trials, target: int, folds: int, *, pruner: str) -> list[Task]:
    """Return what may be done now, in the order in which it should start; nothing if the study is complete.

    Args:
        trials: All trials of the study, by number.
        target: Number of finished (complete or pruned) trials that the study should have.
        folds: Folds of the cross-validation.
        pruner: A key of `PRUNERS`.
    """
    index = max((trial.user_attrs[GENERATION] for trial in trials), default=-1)
    members = [trial for trial in trials if trial.user_attrs[GENERATION] == index]
    if members and len(members) < (size := members[0].user_attrs[SIZE]):
        return [SampleTask(index, size)]
    if any(not trial.state.is_finished() for trial in members):
        return _generation_tasks(members, folds, PRUNERS[pruner])
    missing = target - sum(trial.state in FINISHED for trial in trials)
    return [SampleTask(index + 1, min(GENERATION_SIZE, missing))] if missing > 0 else []


def _generation_tasks(members: Trials, folds: int, survivors: Survivors) -> list[Task]:
    """Return the folds that may run now, then the trials that are decided."""
    to_run: list[tuple[FrozenTrial, int]] = []
    states = {trial.number: _early_state(trial) for trial in members if has_ended_early(trial)}
    racing = list(members)
    for fold in range(1, folds + 1):
        # a trial that ended early, but after this fold, keeps its place in the round
        going = [trial for trial in racing if not has_ended_early(trial) or len(fold_metrics(trial)) >= fold]
        unscored = [trial for trial in going if len(fold_metrics(trial)) < fold]
        to_run += [(trial, fold) for trial in unscored if len(fold_metrics(trial)) == fold - 1]
        count = survivors(len(racing))
        if count == len(racing):
            continue  # nothing is pruned after this fold: no need to wait for it
        if unscored:
            break
        ranked = sorted(going, key=lambda trial: (-_mean_accuracy(trial, fold), trial.number))
        states |= {trial.number: TrialState.PRUNED for trial in ranked[count:]}
        racing = ranked[:count]
    else:
        done = [trial for trial in racing if len(fold_metrics(trial)) == folds]
        states |= {trial.number: TrialState.COMPLETE for trial in done}
    running = {trial.number for trial in members if not trial.state.is_finished()}
    to_run.sort(key=lambda pair: _start_order(*pair))
    ends = [EndTask(number, state) for number, state in sorted(states.items()) if number in running]
    return [*(FoldTask(trial.number, fold) for trial, fold in to_run), *ends]


def fold_metrics(trial: FrozenTrial) -> dict[int, Metrics]:
    """Return the metrics of a trial's scored folds, by fold."""
    stored = ((name.removeprefix(FOLD_PREFIX), value) for name, value in trial.user_attrs.items())
    return {int(number): value for number, value in sorted(stored) if number.isdecimal()}


def has_ended_early(trial: FrozenTrial) -> bool:
    """Return whether a trial diverged, raised an error or killed its workers, so that no more of its folds are run."""
    return not trial.user_attrs.keys().isdisjoint((DIVERGED, FAILURE, GAVE_UP))


def _early_state(trial: FrozenTrial) -> TrialState:
    """Diverged trials are pruned, not failed: the sampler ignores failed trials and would try similar values again."""
    return TrialState.PRUNED if DIVERGED in trial.user_attrs else TrialState.FAIL


def _mean_accuracy(trial: FrozenTrial, folds: int) -> float:
    metrics = fold_metrics(trial)
    return statistics.fmean(metrics[fold]["fold/accuracy"] for fold in range(1, folds + 1))


def _start_order(trial: FrozenTrial, fold: int) -> tuple[float, float, int, int]:
    """Expensive folds start first, so that no worker is left with a long one: by earlier folds, else batch size."""
    seconds = max((metrics["time/fold_seconds"] for metrics in fold_metrics(trial).values()), default=0.0)
    return -seconds, trial.params.get("batch_size", 0), fold, trial.number
