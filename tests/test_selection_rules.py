"""The rules that `tools.selection_rules` compares, on made-up validation curves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline.training.records import EpochRecord
from tools.selection_rules import PATIENCE, Criterion, by_accuracy, by_loss, by_smoothed_loss, select


def history(losses: Sequence[float], accuracies: Sequence[float] | None = None) -> list[EpochRecord]:
    accuracies = accuracies or [0.5] * len(losses)
    pairs = enumerate(zip(losses, accuracies, strict=True), 1)
    return [EpochRecord(epoch, 0.1, 1.0, loss, accuracy, 0.01, False) for epoch, (loss, accuracy) in pairs]


@pytest.mark.parametrize(
    ("criterion", "losses", "accuracies", "expected"),
    [
        (by_loss, [3, 1, 2, 1], None, 1),
        (by_accuracy, [3, 1, 2, 4], [0.5, 0.6, 0.7, 0.6], 2),
        (by_accuracy, [3, 2, 1, 4], [0.5, 0.7, 0.7, 0.7], 2),
        (by_smoothed_loss, [5] * 10 + [1] + [4] * 9 + [2] * 12, None, 29),
    ],
)
def test_rule_selects_its_best_epoch(
    criterion: Criterion, losses: list[float], accuracies: list[float] | None, expected: int
) -> None:
    assert select(history(losses, accuracies), criterion) == (expected, len(losses))


def test_early_stopping_misses_a_late_minimum() -> None:
    losses = [2.0, 1.0, *[3.0] * (PATIENCE - 1), 3.0, 0.5]
    assert select(history(losses), by_loss) == (1, PATIENCE + 2)
    assert select(history([*losses[:PATIENCE], 0.5]), by_loss) == (PATIENCE, PATIENCE + 1)
