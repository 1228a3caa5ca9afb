"""What a study searches: a default space for each network family, or one's own as YAML.

    learning_rate: {low: 0.0003, high: 0.01, log: true}     a number between two bounds
    width: {low: 50, high: 300, step: 50}                   whole numbers in steps
    batch_norm: [false, true]                               one of several values

Every name must be a parameter of `train_base` that the network family has.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from pydantic import ValidationError

from pipeline.errors import Fault, UserInputError, suggest
from pipeline.networks.from_params import architecture_from_params
from pipeline.params import Family, TrainBaseParams, parse_params
from pipeline.yaml_lines import LinedMapping, read_yaml

MAX_COMBINATIONS = 500
MAX_BOUND = 10**12  # no parameter goes further, and searching a longer range of whole numbers would overflow
SEARCHABLE = (
    "learning_rate", "batch_size", "weight_decay", "weight_averaging", "dropout", "batch_norm", "hidden_layers",
    "width", "channels", "kernels", "strides", "pool", "dense_width", "dense_dropout",
)  # fmt: skip
WHOLE_NUMBERS = ("batch_size", "hidden_layers", "width", "dense_width")


@dataclass(frozen=True)
class Dimension:
    """One searched parameter: a range, or choices.

    Attributes:
        low: The smallest value of a range.
        high: The largest.
        log: Whether the range is searched on a logarithmic scale.
        step: The grid of a range that is not logarithmic; whole numbers have one of 1.
        choices: The values, where it is not a range.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Return the trial's value."""
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        assert self.low is not None and self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values at which a dimension is checked: its choices, or its bounds."""
        return self.choices or (self.low, self.high)


Space = dict[str, Dimension]

DEFAULT_SPACES: dict[Family, Space] = {
    "mlp": {
        "learning_rate": Dimension(3e-4, 5e-3, log=True),
        "batch_size": Dimension(choices=(64, 128, 256, 512)),
        "weight_decay": Dimension(1e-6, 1e-3, log=True),
        "dropout": Dimension(0.0, 0.4, step=0.1),
        "batch_norm": Dimension(choices=(False, True)),
        "width": Dimension(50, 200, step=50),
    },
    "cnn": {
        "learning_rate": Dimension(3e-4, 6e-3, log=True),
        "batch_size": Dimension(choices=(64, 128, 256)),
        "weight_decay": Dimension(1e-6, 1e-3, log=True),
        "dropout": Dimension(0.0, 0.4, step=0.1),
        "dense_dropout": Dimension(0.0, 0.6),
        "dense_width": Dimension(64, 256, step=64),
    },
}


def load_space(text: str, family: Family) -> Space:
    """Return the space of a family, or that of a YAML file.

    Args:
        text: `default`, or a file's path.
        family: Whose parameters may be searched.

    Raises:
        UserInputError: The file cannot be read, or holds faults; each is named by line and key.
    """
    if text == "default":
        return DEFAULT_SPACES[family]
    root = read_yaml("space", Path(text), "Give a YAML file that names parameters and their ranges, or default.")
    return _read(text, root, family)


def _read(text: str, root: LinedMapping, family: Family) -> Space:
    faults: list[Fault] = []
    space: Space = {}
    for key, value in root.items():
        try:
            if key not in SEARCHABLE:
                raise ValueError(f"is not a parameter that can be searched. {suggest(key, SEARCHABLE)}".strip())
            space[key] = _dimension(key, value)
            _check(key, space[key], family)
        except (ValueError, OverflowError) as error:
            why = " ".join(str(error).split())[:500]
            where = f"{text}, line {root.lines[key]}, {key}"
            faults.append(Fault(where, None, why if why.endswith((".", "?")) else f"{why}.", "See docs/tuning.md."))
    if faults:
        raise UserInputError(*faults)
    return space


def _dimension(key: str, value: Any) -> Dimension:
    """Return the dimension that a YAML value describes; ValueError says why it is none."""
    if isinstance(value, list):
        if not all(isinstance(item, bool | int | float | str) for item in value):
            raise ValueError("its choices must be numbers, words, true or false")
        if not value or len({json.dumps(item) for item in value}) != len(value):
            raise ValueError("needs at least one choice, each once")
        return Dimension(choices=tuple(value))
    if not isinstance(value, dict) or not {"low", "high"} <= set(value) <= {"low", "high", "log", "step"}:
        raise ValueError("must be a list of choices, or low and high with log or step")
    low, high = value["low"], value["high"]
    if not all(_is_number(bound) for bound in (low, high)):
        raise ValueError(f"low={low} and high={high} must be numbers (write 1.0e-5 for 1e-5)")
    if not -MAX_BOUND <= low < high <= MAX_BOUND:
        raise ValueError(f"low={low} must be below high={high}, and both within {MAX_BOUND:.0e}")
    log, step = value.get("log", False), value.get("step")
    if not isinstance(log, bool):
        raise ValueError(f"log={log} must be true or false")
    if log and low <= 0:
        raise ValueError(f"low={low} must be above 0 on a logarithmic scale")
    if key in WHOLE_NUMBERS and not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError(f"low={low} and high={high} must be whole numbers, as the parameter is")
    if key not in WHOLE_NUMBERS:
        low, high = float(low), float(high)  # or 0 and 1 would be searched without what lies between
    if step is not None and (log or not _is_number(step) or not 0 < step <= high - low):
        raise ValueError(f"step={step} must be a number above 0 that fits between low and high, without log")
    if step is not None and key in WHOLE_NUMBERS and not isinstance(step, int):
        raise ValueError(f"step={step} must be a whole number, as the parameter is")
    return Dimension(low, high, log, step)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def _check(key: str, dimension: Dimension, family: Family) -> None:
    """Raise ValueError where a value of the dimension is not one that the parameter allows."""
    for value in dimension.extremes:
        try:
            parse_params(TrainBaseParams, {"model": family, key: value})
        except UserInputError as error:
            own = [str(fault).rstrip(".") for fault in error.faults if fault.name == key]
            if own:  # what a value contradicts is looked at when all are together
                raise ValueError("; ".join(own)) from None


def fit_batches(space: Space, images: int) -> Space:
    """Return a family's default space without batches that are larger than the data."""
    sizes = tuple(size for size in space["batch_size"].choices if size <= images) or (images,)
    return {**space, "batch_size": Dimension(choices=sizes)}


def check_together(space: Space, params: TrainBaseParams, image_shape: tuple[int, int, int]) -> None:
    """Refuse a space in which values contradict each other or what is not searched.

    Every dimension's choices and bounds are combined, a seeded sample of the combinations where they are many.

    Raises:
        UserInputError: Some combination makes no network or is not allowed; names it.
    """
    count = math.prod(len(dimension.extremes) for dimension in space.values())
    names, draw = list(space), random.Random(0)
    if count <= MAX_COMBINATIONS:
        combinations = list(itertools.product(*(space[name].extremes for name in names)))
    else:
        combinations = [tuple(draw.choice(space[name].extremes) for name in names) for _ in range(MAX_COMBINATIONS)]
    for values in combinations:
        setting = dict(zip(names, values, strict=True))
        try:
            chosen = with_setting(params, setting)
            architecture_from_params(chosen, image_shape, chosen.class_numbers)
        except ValueError as error:
            fault = Fault("space", json.dumps(setting), f"holds a setting that contradicts itself ({_why(error)}).",
                          "Change the space, or what is not searched.")  # fmt: skip
            raise UserInputError(fault) from None


def _why(error: ValueError) -> str:
    """Return the first reason of a refusal, with the parameter it is about where pydantic names one."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    reason = str(first.get("ctx", {}).get("error", "")) or str(first["msg"])
    return f"{first['loc'][0]}: {reason}" if first["loc"] else reason


def with_setting(params: TrainBaseParams, setting: Mapping[str, Any]) -> TrainBaseParams:
    """Return `train_base`'s parameters with a trial's values in place of the record's own."""
    values = params.model_dump(include=set(TrainBaseParams.model_fields))
    return TrainBaseParams(**{name: value for name, value in values.items() if value is not None} | dict(setting))


def suggest_setting(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Return a trial's value of every searched parameter."""
    return {name: dimension.suggest(trial, name) for name, dimension in space.items()}


def space_json(space: Mapping[str, Dimension]) -> str:
    """Return a space in one canonical spelling, to compare a study's with."""
    return json.dumps({name: asdict(dimension) for name, dimension in space.items()}, sort_keys=True)
