"""Collects the errors of a plan file by line and key, so that all are reported at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import Fault, suggest
from pipeline.yaml_lines import LinedMapping

MAX_SEEDS = 1000


@dataclass(frozen=True)
class PlanErrors:
    """The errors of one plan file."""

    path: Path  # of the file, for messages
    faults: list[Fault] = field(default_factory=list)  # collected so far

    def add(self, mapping: Mapping[str, Any], key: str, allowed: str, *, remedy: str = "See docs/plans.md.") -> None:
        """Record an error at a key of a mapping."""
        line = mapping.lines.get(key) if isinstance(mapping, LinedMapping) else None
        location = f"{self.path}, line {line}, {key}" if line else f"{self.path}, {key}"
        self.faults.append(Fault(location, None, allowed, remedy))

    def known_keys(self, mapping: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
        """Record an error for each key of `mapping` that is not in `known`."""
        for key in mapping:
            if key not in known:
                allowed = f"is not a key of a {what}; allowed: {', '.join(known)}."
                self.add(mapping, key, allowed, remedy=suggest(key, known))

    def mapping(self, parent: Mapping[str, Any], key: str) -> LinedMapping:
        """Return the mapping at a key; empty if the key is missing or (an error) not a mapping."""
        value = parent.get(key)
        if isinstance(value, LinedMapping):
            return value
        if value is not None:
            self.add(parent, key, "must be a mapping of names to values.")
        return LinedMapping()

    def seeds(self, mapping: Mapping[str, Any], default: int) -> int:
        """Return the number of seeds of a mapping; 1 if it is (an error) out of range."""
        value = mapping.get("seeds", default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SEEDS:
            self.add(mapping, "seeds", f"must be an integer in [1, {MAX_SEEDS}].")
            return 1
        return value
