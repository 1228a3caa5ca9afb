"""The grid of `tune_on_validation`: text such as `learning_rate=0.001,0.003 weight_decay=0.001,0.01`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError

from pipeline.params.base import Decay, Rate

TUNABLE = {"learning_rate": TypeAdapter(list[Rate]), "weight_decay": TypeAdapter(list[Decay])}
MAX_TRIES = 100


def canonical_grid(value: object) -> str:
    """Return a grid as text: names in the order of `TUNABLE`, values ascending.

    Args:
        value: Text, or a mapping of names to lists of values, as in a plan.

    Raises:
        ValueError: An unknown name, a value that is not in range, a duplicate, or more than 100 combinations.
    """
    grid = {name: _values(name, values) for name, values in _entries(value)}
    if math.prod(map(len, grid.values())) > MAX_TRIES:
        raise ValueError(f"at most {MAX_TRIES} combinations are tried")
    return " ".join(f"{name}={','.join(map(str, grid[name]))}" for name in TUNABLE if name in grid)


def grid_values(text: str) -> dict[str, tuple[float, ...]]:
    """Return the values of a canonical grid by name; empty for an empty text."""
    pairs = (word.split("=") for word in text.split())
    return {name: tuple(map(float, values.split(","))) for name, values in pairs}


def grid_settings(text: str) -> list[dict[str, float]]:
    """Return all combinations of a canonical grid; one empty combination for an empty text."""
    grid = grid_values(text)
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _entries(value: object) -> list[tuple[str, object]]:
    if isinstance(value, Mapping):
        return [(str(name), values) for name, values in value.items()]
    words = [word.partition("=") for word in str(value).split()]
    if len({name for name, _, _ in words}) < len(words):
        raise ValueError("duplicate name")
    return [(name, values.split(",")) for name, _, values in words]


def _values(name: str, values: object) -> list[float]:
    if name not in TUNABLE:
        raise ValueError(f"{name} cannot be tuned on validation; {' and '.join(TUNABLE)} can")
    try:
        numbers = sorted(TUNABLE[name].validate_python(values))
    except ValidationError:
        numbers = []
    if not numbers:
        raise ValueError(f"{name} needs one or more valid values, got {values}")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{name} has a duplicate value")
    return numbers
