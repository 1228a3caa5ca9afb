"""Sample the settings of a generation: quasi-random at first, then from the results of earlier generations."""

from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from pipeline.runtime import derive_seed
from pipeline.tuning.schedule import FINISHED
from pipeline.tuning.search_space import Space

Sampler = optuna.samplers.BaseSampler
SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def sample_generation(
    sampler: str, space: Space, *, seed: int, earlier: Sequence[FrozenTrial], size: int
) -> list[dict[str, Any]]:
    """Return the settings of a generation, which depend only on the arguments.

    Args:
        sampler: A key of `SAMPLERS`; the first generation of all but `random` is a scrambled Sobol sequence.
        space: The search space.
        seed: Seed of the study.
        earlier: Trials of all earlier generations, by number.
        size: Number of settings.
    """
    number = derive_seed(seed, "generation", len(earlier)) % 2**32
    quasi_random = not earlier and sampler != "random"
    chosen = optuna.samplers.QMCSampler(seed=number, scramble=True) if quasi_random else SAMPLERS[sampler](number)
    # a study in memory, in which nothing happens between two suggestions
    study = optuna.create_study(direction="maximize", sampler=chosen)
    study.add_trials([trial for trial in earlier if trial.state in FINISHED])
    return [study.ask({**space}).params for _ in range(size)]
