"""The race of a study's folds: its cost, who survives, and that the order of tasks does not matter."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.tuning.schedule import (
    DIVERGED,
    FAILURE,
    GENERATION,
    GENERATION_SIZE,
    SIZE,
    EndTask,
    FoldTask,
    SampleTask,
    Task,
    better_half,
    open_tasks,
)

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
Score = Callable[[int, int], float | str]  # of trial and fold; a text is the name of an attribute that ends the trial
Pick = Callable[[list[Task]], Task]


def first(tasks: list[Task]) -> Task:
    return tasks[0]


def new_trial(number: int, generation: int, size: int) -> FrozenTrial:
    trial = create_trial(
        state=TrialState.RUNNING,
        params={"x": number},
        distributions={"x": IntDistribution(0, 1000)},
        user_attrs={GENERATION: generation, SIZE: size},
    )
    trial.number = number
    return trial


def play(target: int, folds: int, score: Score, *, pruner: str = "race", pick: Pick = first) -> list[FrozenTrial]:
    """Do what the schedule says, one task at a time, until the study is complete."""
    trials: list[FrozenTrial] = []
    while tasks := open_tasks(trials, target, folds, pruner=pruner):
        task = pick(tasks)
        if isinstance(task, SampleTask):
            trials += [new_trial(len(trials) + i, task.generation, task.size) for i in range(task.size)]
        elif isinstance(task, FoldTask):
            value = score(task.trial, task.fold)
            name, entry = (value, "reason") if isinstance(value, str) else (
                f"fold {task.fold}", {"fold/accuracy": value, "time/fold_seconds": 1.0}
            )  # fmt: skip
            assert name not in trials[task.trial].user_attrs
            trials[task.trial].user_attrs[name] = entry
        else:
            trials[task.trial].state = task.state
    return trials


def folds_run(trials: list[FrozenTrial]) -> list[int]:
    return [sum(name.startswith("fold ") for name in trial.user_attrs) for trial in trials]


def test_race_halves_down_to_two_settings() -> None:
    counts = [20]
    while len(counts) < 6:
        counts.append(better_half(counts[-1]))
    assert counts == [20, 10, 5, 3, 2, 2]
    assert [better_half(count) for count in (1, 2, 3)] == [1, 2, 2]


def test_better_settings_run_more_folds() -> None:
    trials = play(10, 5, lambda trial, fold: trial / 10)
    assert folds_run(trials) == [1, 1, 1, 1, 1, 2, 2, 3, 5, 5]
    assert [trial.state for trial in trials] == [PRUNED] * 8 + [COMPLETE] * 2


def test_equal_settings_survive_by_number() -> None:
    assert folds_run(play(4, 3, lambda trial, fold: 0.5)) == [3, 3, 1, 1]


def test_means_decide_not_the_last_fold() -> None:
    scores = {0: [0.9, 0.1, 0.9], 1: [0.8, 0.8, 0.8], 2: [0.7, 0.9, 0.1], 3: [0.6, 0.9, 0.9], 4: [0.5, 0.9, 0.9]}
    assert folds_run(play(5, 3, lambda trial, fold: scores[trial][fold - 1])) == [2, 3, 3, 1, 1]


def test_no_pruning_runs_all_folds() -> None:
    assert folds_run(play(12, 3, lambda trial, fold: trial / 12, pruner="none")) == [3] * 12


@pytest.mark.parametrize("pruner", ["race", "none"])
def test_order_of_tasks_does_not_matter(pruner: str) -> None:
    def score(trial: int, fold: int) -> float | str:
        rng = random.Random(100 * trial + fold)
        return DIVERGED if rng.random() < 0.1 else FAILURE if rng.random() < 0.15 else rng.random()

    expected = play(25, 4, score, pruner=pruner)
    assert {trial.state for trial in expected} == {COMPLETE, PRUNED, FAIL}
    for seed in range(20):
        trials = play(25, 4, score, pruner=pruner, pick=random.Random(seed).choice)
        assert folds_run(trials) == folds_run(expected)
        assert [trial.state for trial in trials] == [trial.state for trial in expected]


def test_generation_starts_after_the_previous_one_ended() -> None:
    trials = play(GENERATION_SIZE, 2, lambda trial, fold: 0.5)
    assert open_tasks(trials, GENERATION_SIZE + 3, 2, pruner="race") == [SampleTask(1, 3)]
    trials[4].state = TrialState.RUNNING
    assert open_tasks(trials, GENERATION_SIZE + 3, 2, pruner="race") == [EndTask(4, PRUNED)]


def test_incomplete_generation_is_completed_first() -> None:
    trials = [new_trial(number, 0, 5) for number in range(3)]
    assert open_tasks(trials, 5, 2, pruner="race") == [SampleTask(0, 5)]


def test_failed_trials_are_replaced() -> None:
    trials = play(4, 2, lambda trial, fold: FAILURE if trial == 1 else 0.5)
    assert [trial.state for trial in trials] == [COMPLETE, FAIL, COMPLETE, PRUNED, COMPLETE]
    assert trials[4].user_attrs[GENERATION] == 1


def test_diverged_trials_are_pruned_and_not_replaced() -> None:
    trials = play(4, 2, lambda trial, fold: DIVERGED if trial == 1 else 0.5)
    assert [trial.state for trial in trials] == [COMPLETE, PRUNED, COMPLETE, PRUNED]


def test_expensive_folds_start_first() -> None:
    trials = play(4, 1, lambda trial, fold: 0.5)
    for trial, seconds in zip(trials, (1.0, 3.0, 2.0, 4.0), strict=True):
        trial.state = TrialState.RUNNING
        trial.user_attrs["fold 1"]["time/fold_seconds"] = seconds
    tasks = open_tasks(trials, 4, 3, pruner="none")
    assert [task.trial for task in tasks if isinstance(task, FoldTask) and task.fold == 2] == [3, 1, 2, 0]
