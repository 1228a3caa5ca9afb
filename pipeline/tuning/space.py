"""What a study searches: a default space for each network family, or one's own as YAML.

    learning_rate: {low: 0.0003, high: 0.01, log: true}     a number between two bounds
    width: {low: 50, high: 300, step: 50}                   whole numbers in steps
    batch_norm: [false, true]                               one of several values

Every name must be a parameter of `train_base` that the network family has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml

from pipeline.errors import Fault, UserInputError, suggest
from pipeline.params import Family, TrainBaseParams, parse_params

MAX_FILE_BYTES = 1 << 16
MAX_DEPTH = 4  # of brackets within brackets; a space needs two
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
        step: The grid of a range of whole numbers.
        choices: The values, where it is not a range.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: int | None = None
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Return the trial's value."""
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        assert self.low is not None and self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


Space = dict[str, Dimension]

DEFAULT_SPACES: dict[Family, Space] = {
    "mlp": {
        "learning_rate": Dimension(3e-4, 5e-3, log=True),
        "batch_size": Dimension(choices=(64, 128, 256, 512)),
        "weight_decay": Dimension(1e-6, 1e-3, log=True),
        "dropout": Dimension(0.0, 0.4),
        "batch_norm": Dimension(choices=(False, True)),
        "width": Dimension(50, 200, step=50),
    },
    "cnn": {
        "learning_rate": Dimension(3e-4, 6e-3, log=True),
        "batch_size": Dimension(choices=(64, 128, 256)),
        "weight_decay": Dimension(1e-6, 1e-3, log=True),
        "dropout": Dimension(0.0, 0.4),
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
    path = Path(text)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"it is larger than {MAX_FILE_BYTES >> 10} KiB, and no search space is")
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise ValueError("it is not a regular file")
        content = path.read_text(encoding="utf-8")
        check_structure(content)
        root = yaml.compose(content, Loader=yaml.SafeLoader)
    except (OSError, ValueError) as error:
        raise UserInputError(
            Fault("space", text, f"cannot be read: {error}.", "Give a YAML file, or default.")
        ) from None
    except yaml.YAMLError as error:
        raise UserInputError(Fault("space", text, f"is not YAML: {' '.join(str(error).split())}.")) from None
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise UserInputError(Fault("space", text, "is empty: it must name at least one parameter and its range."))
    return _read(text, root, family)


def check_structure(content: str) -> None:
    """Look at a YAML text event by event, before anything is built of it.

    Raises:
        ValueError: It is nested too deeply, or repeats parts by reference, which lets a few lines grow to gigabytes.
        yaml.YAMLError: It is not YAML.
    """
    depth = 0
    for event in yaml.parse(content, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {line} refers to another part (*{event.anchor}); write it out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"line {line} has brackets within brackets that no range needs")


def _read(text: str, root: yaml.MappingNode, family: Family) -> Space:
    faults: list[Fault] = []
    space: Space = {}
    for key_node, value_node in root.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "(a key that is not a word)"
        line = key_node.start_mark.line + 1
        where = f"{text}, line {line}, {key}"
        try:
            if key in space:
                raise ValueError("is named twice")
            if key not in SEARCHABLE:
                raise ValueError(f"is not a parameter that can be searched. {suggest(key, SEARCHABLE)}".strip())
            space[key] = _dimension(key, _construct(value_node))
            _check(key, space[key], family)
        except (ValueError, OverflowError) as error:
            why = " ".join(str(error).split())[:500]
            faults.append(Fault(where, None, why if why.endswith((".", "?")) else f"{why}.", "See docs/tuning.md."))
    if faults:
        raise UserInputError(*faults)
    return space


def _construct(node: yaml.Node) -> Any:
    """Return the Python value of a YAML part; a tag that does not fit its value is a ValueError."""
    try:
        return yaml.SafeLoader("").construct_document(node)
    except Exception as error:  # the library looks up and matches without a check: KeyError, AttributeError, ...
        raise ValueError(f"cannot be read: {error}") from None


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
    if step is not None and (log or isinstance(step, bool) or not isinstance(step, int) or step < 1):
        raise ValueError(f"step={step} must be a whole number, without log")
    if step is not None and key not in WHOLE_NUMBERS:
        raise ValueError(f"step={step} is for parameters that are whole numbers")
    return Dimension(low, high, log, step)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def _check(key: str, dimension: Dimension, family: Family) -> None:
    """Raise ValueError where a value of the dimension is not one that the parameter allows."""
    for value in dimension.choices or (dimension.low, dimension.high):
        try:
            parse_params(TrainBaseParams, {"model": family, key: value})
        except UserInputError as error:
            raise ValueError("; ".join(str(fault) for fault in error.faults).rstrip(".")) from None


def suggest_setting(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Return a trial's value of every searched parameter."""
    return {name: dimension.suggest(trial, name) for name, dimension in space.items()}


def space_json(space: Mapping[str, Dimension]) -> str:
    """Return a space in one canonical spelling, to compare a study's with."""
    return json.dumps({name: asdict(dimension) for name, dimension in space.items()}, sort_keys=True)
