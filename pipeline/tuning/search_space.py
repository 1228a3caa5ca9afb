"""Search spaces: a default per network family, or a YAML file.

    learning_rate: {low: 0.0003, high: 0.01, log: true}     range of numbers
    width: {low: 50, high: 300, step: 50}                   integers with a step
    batch_norm: [false, true]                               choices

Every key must be a parameter of `train_base` for the network family.
"""

import itertools
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, distribution_to_json
from pydantic import ValidationError

from pipeline.errors import Fault, UserInputError, invalid, suggest
from pipeline.networks.from_params import architecture_from_params
from pipeline.networks.layered import CNNArchitecture, MLPArchitecture
from pipeline.params import Family, TrainBaseParams, parse_params
from pipeline.training.batch_size import default_batch_size
from pipeline.yaml_lines import read_yaml

MAX_COMBINATIONS = 500
MAX_BOUND = 10**12  # larger integer ranges overflow in Optuna; no parameter needs them
SEARCHABLE = (
    "learning_rate", "batch_size", "weight_decay", "weight_averaging", "dropout", "batch_norm", "hidden_layers",
    "width", "conv_channels", "kernels", "strides", "padding", "pool", "dense_width", "dense_dropout",
)  # fmt: skip
INTEGERS = ("batch_size", "hidden_layers", "width", "dense_width")

Dimension = FloatDistribution | IntDistribution | CategoricalDistribution
Space = dict[str, Dimension]

DEFAULT_SPACES: dict[Family, Space] = {
    "mlp": {
        "learning_rate": FloatDistribution(3e-4, 5e-3, log=True),
        "batch_size": CategoricalDistribution((64, 128, 256, 512)),
        "weight_decay": FloatDistribution(1e-6, 1e-3, log=True),
        "dropout": FloatDistribution(0.0, 0.4, step=0.1),
        "batch_norm": CategoricalDistribution((False, True)),
        "width": IntDistribution(50, 200, step=50),
    },
    "cnn": {
        "learning_rate": FloatDistribution(3e-4, 6e-3, log=True),
        "batch_size": CategoricalDistribution((64, 128, 256)),
        "weight_decay": FloatDistribution(1e-6, 1e-3, log=True),
        "dropout": FloatDistribution(0.0, 0.4, step=0.1),
        "dense_dropout": FloatDistribution(0.0, 0.6),
        "dense_width": IntDistribution(64, 256, step=64),
    },
}


def load_space(text: str, family: Family) -> Space:
    """Return the family's default space for `default`, else the space in the YAML file at path `text`.

    Raises:
        UserInputError: The file is unreadable or invalid; the message lists all faults by line and key.
    """
    if text == "default":
        return DEFAULT_SPACES[family]
    root = read_yaml("space", Path(text), "Give a YAML file of parameters and their ranges, or default.")
    faults: list[Fault] = []
    space: Space = {}
    for key, value in root.items():
        try:
            if key not in SEARCHABLE:
                raise ValueError(f"not a searchable parameter. {suggest(key, SEARCHABLE)}".strip())
            space[key] = _parse_dimension(key, value)
            _check_values(key, space[key], family)
        except (ValueError, OverflowError) as error:
            reason = " ".join(str(error).split())[:500]
            reason += "" if reason.endswith((".", "?")) else "."
            faults.append(Fault(f"{text}, line {root.lines[key]}, {key}", None, reason, "See docs/tuning.md."))
    if faults:
        raise UserInputError(*faults)
    return space


def _parse_dimension(key: str, value: Any) -> Dimension:
    """Parse one YAML value; ValueError gives the reason if it is invalid."""
    if isinstance(value, dict) and {"low", "high"} <= set(value) <= {"low", "high", "log", "step"}:
        return _parse_range(value, integers=key in INTEGERS)
    if not isinstance(value, list):
        raise ValueError("must be a list of choices, or low and high with log or step")
    if not all(isinstance(choice, bool | int | float | str) for choice in value):
        raise ValueError("choices must be numbers, strings, true or false")
    if not value or len({json.dumps(choice) for choice in value}) != len(value):
        raise ValueError("needs at least one choice, and no duplicates")
    return CategoricalDistribution(value)


def _parse_range(value: Mapping[str, Any], *, integers: bool) -> Dimension:
    low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
    numbers = [low, high] if step is None else [low, high, step]
    if not all(map(_is_number, numbers)):
        raise ValueError(f"low, high and step must be numbers (write 1.0e-5 for 1e-5), got {numbers}")
    if integers and not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"low, high and step must be integers for this parameter, got {numbers}")
    if not -MAX_BOUND <= low < high <= MAX_BOUND:
        raise ValueError(f"low={low} must be below high={high}, and both within +-{MAX_BOUND:.0e}")
    if not isinstance(log, bool):
        raise ValueError(f"log={log} must be true or false")
    if step is not None and (log or not 0 < step <= high - low):
        raise ValueError(f"step={step} must be in (0, high - low], and needs log=false")
    if integers:
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(low, high, log=log, step=step)  # raises ValueError for log with low <= 0, too


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def _check_values(key: str, dimension: Dimension, family: Family) -> None:
    """Raise ValueError if the parameter does not allow a choice or bound; other parameters are not checked here."""
    for value in extremes(dimension):
        try:
            parse_params(TrainBaseParams, {"model": family, key: value})
        except UserInputError as error:
            reasons = [str(fault).rstrip(".") for fault in error.faults if fault.name == key]
            if reasons:
                raise ValueError("; ".join(reasons)) from None


def extremes(dimension: Dimension) -> tuple[Any, ...]:
    """Return the choices, or the bounds of a range."""
    if isinstance(dimension, CategoricalDistribution):
        return dimension.choices
    return dimension.low, dimension.high


def fit_batches(space: Space, images: int) -> Space:
    """Return a default space whose smallest batch size suits the number of training images, and none exceeds it."""
    sizes, default = extremes(space["batch_size"]), TrainBaseParams.model_fields["batch_size"].default
    if (smallest := default_batch_size(default, images)) < default:
        sizes = tuple(smallest * factor for factor in (1, 2, 4))
    return {**space, "batch_size": CategoricalDistribution([size for size in sizes if size <= images])}


def check_combinations(space: Space, params: TrainBaseParams, example: MLPArchitecture | CNNArchitecture) -> None:
    """Check that the searched parameters are compatible with each other and with the fixed ones.

    Checks all combinations of choices and bounds, or a seeded sample if there are too many. `example` has the
    preprocessing and classes of every trial.

    Raises:
        UserInputError: A combination is invalid, or does not give a valid network.
    """
    values = [extremes(dimension) for dimension in space.values()]
    if math.prod(map(len, values)) <= MAX_COMBINATIONS:
        combinations = list(itertools.product(*values))
    else:
        rng = random.Random(0)
        combinations = [tuple(map(rng.choice, values)) for _ in range(MAX_COMBINATIONS)]
    for combination in combinations:
        setting = dict(zip(space, combination, strict=True))
        try:
            trial_params = with_setting(params, setting)
            architecture_from_params(trial_params, example.preprocessing, example.classes)
        except ValueError as error:
            remedy = "Change the space or the fixed parameters."
            reason = f"invalid combination ({_first_reason(error)})."
            raise invalid("space", json.dumps(setting), reason, remedy=remedy) from None


def _first_reason(error: ValueError) -> str:
    """Return the first error, with the parameter's name if there is one."""
    if isinstance(error, UserInputError):
        return str(error.faults[0]).rstrip(".")
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    reason = str(first.get("ctx", {}).get("error", "")) or str(first["msg"])
    return f"{first['loc'][0]}: {reason}" if first["loc"] else reason


def with_setting(params: TrainBaseParams, setting: Mapping[str, Any]) -> TrainBaseParams:
    """Return `train_base` parameters with the searched values applied."""
    values = params.model_dump(include=set(TrainBaseParams.model_fields), exclude_none=True)
    return TrainBaseParams(**values | dict(setting))


def space_json(space: Space) -> str:
    """Return the space as canonical JSON, to compare studies."""
    return json.dumps(
        {name: json.loads(distribution_to_json(dimension)) for name, dimension in space.items()}, sort_keys=True
    )
