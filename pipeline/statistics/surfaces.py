"""Surfaces: choose one cell per label count on some seeds, and confirm it on others.

The best of many cells is partly luck. So the cell is chosen by validation results of seeds 0-2, and only the chosen
cell is compared with training from scratch, on other seeds. Holm's correction then covers the label counts, not the
cells. All other cells are descriptive.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

CHOICE_SEEDS = (0, 1, 2)
FRESH_SEEDS = tuple(range(3, 11))

Cell = TypeVar("Cell")


def choose_cell(validation: Mapping[Cell, Mapping[int, float]], *, seeds: Sequence[int] = CHOICE_SEEDS) -> Cell:
    """Return the cell with the best mean validation score; ties go to the first.

    Args:
        validation: Scores (higher is better) by cell and seed; one cell or more, each with all of the seeds.
        seeds: Seeds to choose on.
    """
    means = {cell: float(np.mean([scores[seed] for seed in seeds])) for cell, scores in validation.items()}
    return max(means, key=means.__getitem__)


def fresh(scores: Mapping[int, float], chosen_on: Sequence[int] = CHOICE_SEEDS) -> dict[int, float]:
    """Return the scores of the seeds that were not used for the choice."""
    return {seed: score for seed, score in scores.items() if seed not in chosen_on}
