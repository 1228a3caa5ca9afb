"""The base of all parameter records: how a parameter is declared, its type's bounds, and their description.

A bound is written once, in the type; `allowed_values` turns it into the text for help and error messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pipeline.errors import Fault, UserInputError, suggest
from pipeline.redaction import holds_password

RUN_ID = "[0-9a-f]{32}"

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1, le=100_000)]
Rate = Annotated[float, Field(gt=0, le=10)]
Decay = Annotated[float, Field(ge=0, le=10)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(pattern=r"\S")]


def setting(
    default: Any,
    text: str,  # one line of help
    *,
    allowed: str = "",  # the accepted values in words, if not derived from the type
    unit: str = "",
    hint: str = "",  # what to do about an invalid value, if not to use the default
    changes_result: bool = True,  # whether it can affect weights or metrics, and so belongs in the cache key
    default_text: str = "",  # what an empty default stands for, in words
    required: bool = False,  # whether the default is not a valid value
) -> Any:
    """Declare one parameter."""
    extra: dict[str, JsonValue] = {
        "allowed": allowed,
        "unit": unit,
        "hint": hint,
        "changes_result": changes_result,
        "default_text": default_text,
        "required": required,
    }
    return Field(default, description=text, json_schema_extra=extra, validate_default=True)


def field_info(field: FieldInfo) -> dict[str, Any]:
    """Return what `setting` declared beside default and text, by argument."""
    assert isinstance(field.json_schema_extra, dict)
    return field.json_schema_extra


def keywords(annotation: Any) -> list[str]:
    """Return the fixed words that a type accepts, such as `auto`."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if annotation is bool:
        return ["true", "false"]
    return [word for member in get_args(annotation) for word in keywords(member)]


def allowed_values(field: FieldInfo) -> str:
    """Describe the values that a field accepts, such as `auto or an integer in [1, 100000]`."""
    words = keywords(field.annotation)
    if field.default == "auto" and "auto" not in words:
        words = ["auto", *words]
    alternatives = words + _ranges(field.annotation, field.metadata)
    return " or ".join(part for part in (", ".join(alternatives[:-1]), alternatives[-1]) if part)


def _ranges(annotation: Any, metadata: Sequence[Any] = ()) -> list[str]:
    if get_origin(annotation) is Annotated:
        inner, info = get_args(annotation)
        return _ranges(inner, info.metadata)
    if get_origin(annotation) in (Union, UnionType):
        return [text for member in get_args(annotation) for text in _ranges(member, metadata)]
    if annotation not in (int, float):
        return []
    limits = [asdict(item) for item in metadata if isinstance(item, Ge | Gt | Le | Lt)]
    bounds = {name: value for limit in limits for name, value in limit.items()}
    noun = "an integer" if annotation is int else "a number"
    if not {"le", "lt"} & bounds.keys():
        return [f"{noun} >= {bounds['ge']}"]
    low = f"[{bounds['ge']}" if "ge" in bounds else f"({bounds['gt']}"
    return [f"{noun} in {low}, " + (f"{bounds['le']}]" if "le" in bounds else f"{bounds['lt']})")]


class StageParams(BaseModel):
    """The base of every group of parameters.

    An entry point's record lists its groups as bases. pydantic collects their fields from the last base to the
    first, and a validator sees only the fields before its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    entry_point: ClassVar[str] = ""

    dry_run: bool = setting(False, "Print the resolved configuration and exit.", changes_result=False)

    if not TYPE_CHECKING:  # type checkers see the fields as arguments

        def __init__(self, **values: Any) -> None:
            """Validate the values; raise UserInputError with one fault per unknown or invalid parameter."""
            try:
                super().__init__(**values)
            except ValidationError as error:
                faults: dict[str, Fault] = {}
                for item in error.errors(include_url=False):
                    name = str(item["loc"][0])  # a union has one error per member: the first one will do
                    faults.setdefault(name, _fault(type(self), values.get(name), item))
                raise UserInputError(*faults.values()) from None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Describe the allowed values of each field that does not describe them itself."""
        super().__pydantic_init_subclass__(**kwargs)
        for field in cls.model_fields.values():
            info = field_info(field)
            info["allowed"] = info["allowed"] or allowed_values(field)

    def logged(self) -> dict[str, str]:
        """Return every parameter that applies, by name, as the text that is logged."""
        values = self.model_dump(exclude={"dry_run"})
        return {name: spell(value) for name, value in values.items() if value is not None}

    @field_validator("*", mode="before")
    @classmethod
    def _no_password(cls, value: Any) -> Any:
        if isinstance(value, str) and holds_password(value):
            raise ValueError(
                "it contains a password, and MLflow shows parameters to everyone: use environment variables"
            )
        return value


def spell(value: object) -> str:
    """Return a value as the text that is logged: `true`, `0.001`, `0-4`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def describe_default(kind: type[StageParams], name: str) -> str:
    """Return the default of a parameter as text, `empty` for an empty one, or `required`."""
    field = kind.model_fields[name]
    info = field_info(field)
    return "required" if info["required"] else spell(field.default) or info["default_text"] or "empty"


def _fault(kind: type[StageParams], value: Any, item: ErrorDetails) -> Fault:
    """Translate one pydantic error."""
    name = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        remedy = suggest(name, kind.model_fields) or f"See python -m pipeline {kind.entry_point} --help."
        return Fault(name, value, "unknown parameter.", remedy)
    field = kind.model_fields[name]
    reason = str(item.get("ctx", {}).get("error", "")) if item["type"] == "value_error" else ""
    remedy = _sentence(reason) or suggest(str(value), keywords(field.annotation)) or field_info(field)["hint"]
    default = f"The default is {describe_default(kind, name)}."
    return Fault(name, value, f"must be {field_info(field)['allowed']}.", remedy or default)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text[-1:] in "?." else ".") if text else ""


P = TypeVar("P", bound=StageParams)


def parse_params(kind: type[P], raw: dict[str, Any]) -> P:
    """Return the record for raw values; names may be spelled with hyphens or underscores.

    Raises:
        UserInputError: With one fault for each unknown or invalid parameter.
    """
    return kind(**{name.replace("-", "_"): value for name, value in raw.items()})
