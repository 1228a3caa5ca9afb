"""Turns raw values (text or Python values) into a validated record, or into all of their faults at once."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import Fault, UserInputError, suggest
from pipeline.params.base import StageParams, field_info, keywords, spell

P = TypeVar("P", bound=StageParams)


def parse_params(kind: type[P], raw: dict[str, Any]) -> P:
    """Return the record for raw values; names may be spelled with hyphens or underscores.

    Raises:
        UserInputError: With one fault for each unknown or invalid parameter.
    """
    values = {name.replace("-", "_"): value for name, value in raw.items()}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults: dict[str, Fault] = {}
        for item in error.errors(include_url=False):
            name = str(item["loc"][0])  # a union has one error per member: the first one will do
            faults.setdefault(name, _fault(kind, values.get(name), item))
        raise UserInputError(*faults.values()) from None


def _fault(kind: type[StageParams], value: Any, item: ErrorDetails) -> Fault:
    """Translate one pydantic error."""
    name = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        remedy = suggest(name, kind.model_fields) or f"See python -m pipeline {kind.entry_point} --help."
        return Fault(name, value, "unknown parameter.", remedy)
    field = kind.model_fields[name]
    reason = str(item.get("ctx", {}).get("error", "")) if item["type"] == "value_error" else ""
    remedy = _sentence(reason) or suggest(str(value), keywords(field.annotation)) or field_info(field)["hint"]
    default = f"The default is {spell(field.default) or 'none'}."
    return Fault(name, value, f"must be {field_info(field)['allowed']}.", remedy or default)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text[-1:] in "?." else ".") if text else ""
