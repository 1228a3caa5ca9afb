"""Gathering the faults of a plan, each by line and key, while reading on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import Fault, suggest
from pipeline.yaml_lines import LinedMapping

MAX_SEEDS = 1000


class PlanErrors:
    """The faults of one file.

    Args:
        path: Of the file, for the messages.

    Attributes:
        found: So far.
    """

    def __init__(self, path: Path):
        self.path = path
        self.found: list[Fault] = []

    def add(self, where: Mapping[str, Any], key: str, what: str, remedy: str = "See docs/plans.md.") -> None:
        """Note what is wrong with a key of a mapping."""
        line = where.lines.get(key) if isinstance(where, LinedMapping) else None
        place = f"{self.path}, line {line}, {key}" if line else f"{self.path}, {key}"
        self.found.append(Fault(place, None, what, remedy))

    def known_keys(self, mapping: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
        """Note keys that a mapping cannot have."""
        for key in mapping:
            if key not in known:
                self.add(mapping, key, f"is no key of a {what}; these are {', '.join(known)}.", suggest(key, known))

    def mapping(self, where: Mapping[str, Any], key: str) -> LinedMapping:
        """Return the mapping below a key, an empty one where it is left out or is none (a fault)."""
        value = where.get(key)
        if isinstance(value, LinedMapping):
            return value
        if value is not None:
            self.add(where, key, "must be a mapping of names to values.")
        return LinedMapping()

    def seeds(self, where: Mapping[str, Any], default: int) -> int:
        """Return a number of seeds."""
        value = where.get("seeds", default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SEEDS:
            self.add(where, "seeds", f"must be a whole number from 1 to {MAX_SEEDS}.")
            return 1
        return value
