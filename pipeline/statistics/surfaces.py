"""Surfaces: choose one cell per number of labels on some seeds, confirm it on others.

The best of many cells is partly the luckiest. So the choice uses validation results of seeds 0-2, and only the chosen
cell is compared with training from scratch, on fresh seeds. Holm's correction then covers the label counts, not the
cells. All other cells are descriptive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.statistics.estimates import pair
from pipeline.statistics.verdict import Comparison, Verdict, judge

CHOICE_SEEDS = (0, 1, 2)
FRESH_SEEDS = tuple(range(3, 11))


@dataclass(frozen=True)
class Choice:
    """The cell chosen for one number of labels per class."""

    labels: int
    cell: str
    score: float  # mean validation score over the seeds of the choice
    runner_up: float  # the second best mean; NaN for a single cell


def choose_cells(
    validation: Mapping[int, Mapping[str, Mapping[int, float]]], *, seeds: Sequence[int] = CHOICE_SEEDS
) -> tuple[Choice, ...]:
    """Return the cell with the best mean validation score per number of labels; the first of equals.

    Args:
        validation: Scores (higher is better) by labels per class, cell and seed.
        seeds: Seeds to choose on; every cell needs all of them.
    """
    choices = []
    for labels, cells in sorted(validation.items()):
        means = {cell: float(np.mean([scores[seed] for seed in seeds])) for cell, scores in cells.items()}
        best = max(means, key=means.__getitem__)
        others = [mean for cell, mean in means.items() if cell != best]
        choices.append(Choice(labels, best, means[best], max(others, default=float("nan"))))
    return tuple(choices)


def confirm_choices(
    choices: Sequence[Choice],
    test: Mapping[int, Mapping[str, Mapping[int, float]]],
    reference: Mapping[int, Mapping[int, float]],
    *,
    margins: Mapping[int, float],
    chosen_on: Sequence[int] = CHOICE_SEEDS,
) -> tuple[Verdict, ...]:
    """Compare every chosen cell with the reference on fresh seeds; the label counts form one family.

    Results of the seeds of the choice are left out, so that they cannot be used twice.

    Args:
        choices: The chosen cells.
        test: Test scores by labels per class, cell and seed.
        reference: Test scores of training from scratch by labels per class and seed.
        margins: The smallest difference that matters, by labels per class.
        chosen_on: The seeds of the choice.
    """
    return judge(
        [
            Comparison(
                key=f"{choice.cell} at {choice.labels} labels per class",
                pairs=pair(
                    _fresh(test.get(choice.labels, {}).get(choice.cell, {}), chosen_on),
                    _fresh(reference.get(choice.labels, {}), chosen_on),
                ),
                margin=margins[choice.labels],
            )
            for choice in choices
        ]
    )


def _fresh(scores: Mapping[int, float], chosen_on: Sequence[int]) -> dict[int, float]:
    return {seed: score for seed, score in scores.items() if seed not in chosen_on}
