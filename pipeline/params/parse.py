"""Turns raw values (text or Python values) into a validated record, or into all of their faults at once."""

from __future__ import annotations

from typing import Any, TypeVar

from pipeline.params.base import StageParams

P = TypeVar("P", bound=StageParams)


def parse_params(kind: type[P], raw: dict[str, Any]) -> P:
    """Return the record for raw values; names may be spelled with hyphens or underscores.

    Raises:
        UserInputError: With one fault for each unknown or invalid parameter.
    """
    return kind(**{name.replace("-", "_"): value for name, value in raw.items()})
