"""Networks defined by the user's code.

The code runs only if the user names it on the command line. Nothing that is read from a run, a model's files or a plan
may be passed to this module.
"""

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from pipeline.errors import suggest
from pipeline.networks.origins.source import ModelSource
from pipeline.redaction import first_line

FORM = "Write own:PATH.py:FUNCTION or own:package.module:FUNCTION."
MAX_SOURCE_BYTES = 1 << 20


def own_source(name: str) -> ModelSource:
    """Import the user's code and return its source.

    Args:
        name: `PATH.py:FUNCTION` or `package.module:FUNCTION`. The function is called without arguments, or with
            `num_classes` if it accepts that, and returns an `nn.Module`.

    Raises:
        ValueError: Invalid syntax, a missing file, module or function, or an error in the user's code.
    """
    place, _, function = name.rpartition(":")
    if not place or not function.isidentifier():
        raise ValueError(f"{name!r} does not name a function. {FORM}")
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    builder = getattr(module, function, None)
    if not callable(builder):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{place} has no function {function}. {suggest(function, functions)}".strip())
    text = _source_bytes(module)
    return ModelSource(
        family="own",
        name=f"{_record_name(place)}:{function}",
        build=partial(_build, builder, function),
        source_text=text.decode("utf-8", errors="replace"),
        source_digest=hashlib.sha256(text).hexdigest(),
    )


def _record_name(place: str) -> str:
    """Return the name of a module, or of a file without its folder, in the characters allowed in a record."""
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", Path(place).name if place.endswith(".py") else place)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"{path} does not exist. {FORM}")
    spec = importlib.util.spec_from_file_location(f"own_network_{path.stem}", path)
    assert spec is not None and spec.loader is not None, f"{path} ends with .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # classes look up their module by name
    with _importing(str(path)), _folder_importable(path.resolve().parent):
        spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    with _importing(name):
        return importlib.import_module(name)


@contextmanager
def _importing(place: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"{place} cannot be imported: {type(error).__name__}: {first_line(error)}.") from error


@contextmanager
def _folder_importable(folder: Path) -> Iterator[None]:
    """Let a file import from its folder, with lower priority than installed packages."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _source_bytes(module: ModuleType) -> bytes:
    file = inspect.getsourcefile(module)
    if file is None:
        raise ValueError(f"{module.__name__} has no source file. Give a module written in Python.")
    text = Path(file).read_bytes()
    if len(text) > MAX_SOURCE_BYTES:
        raise ValueError(f"{file} has {len(text)} bytes (limit: {MAX_SOURCE_BYTES}).")
    return text


def _build(builder: Callable[..., Any], function: str, classes: int | None) -> nn.Module:
    try:
        module = builder(num_classes=classes) if classes and _takes_classes(builder) else builder()
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"{function} failed: {type(error).__name__}: {first_line(error)}.") from error
    if not isinstance(module, nn.Module):
        raise ValueError(f"{function} must return a torch.nn.Module, got {type(module).__name__}.")
    return module


def _takes_classes(builder: Callable[..., Any]) -> bool:
    parameters = inspect.signature(builder).parameters.values()
    return any(p.name == "num_classes" or p.kind == p.VAR_KEYWORD for p in parameters)
