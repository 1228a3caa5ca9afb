"""From raw values (text or Python values) to a checked record, or to all of their faults together."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline.errors import Fault, UserInputError, suggest
from pipeline.params.base import StageParams, spell

P = TypeVar("P", bound=StageParams)


def parse_params(kind: type[P], raw: dict[str, Any]) -> P:
    """Return the checked record for some raw values (text or Python values, hyphens or underscores).

    Raises:
        UserInputError: With one fault for each parameter that is unknown or not allowed, all together.
    """
    values = {name.replace("-", "_"): value for name, value in raw.items()}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserInputError(*_faults(kind, values, error)) from None


def _faults(kind: type[StageParams], values: dict[str, Any], error: ValidationError) -> list[Fault]:
    """Translate pydantic's errors into faults, one for each parameter."""
    found: dict[str, Fault] = {}
    for item in error.errors(include_url=False):
        name = str(item["loc"][0])
        if name in found:  # a union reports each of its branches
            continue
        if item["type"] == "extra_forbidden":
            remedy = suggest(name, kind.model_fields) or f"See python -m pipeline {kind.entry_point} --help."
            found[name] = Fault(name, values.get(name), "not a parameter here.", remedy)
            continue
        extra = kind.model_fields[name].json_schema_extra
        assert isinstance(extra, dict)
        why = str(item.get("ctx", {}).get("error", "")) if item["type"] == "value_error" else ""
        remedy = _sentence(why) or f"The default is {spell(kind.model_fields[name].default) or 'none'}."
        found[name] = Fault(name, values.get(name), f"must be {extra['allowed']}.", remedy)
    return list(found.values())


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text[-1:] in "?." else ".") if text else ""
