"""YAML in which every key knows its line, so that a fault can be found where it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import Fault, UserInputError

MAX_FILE_BYTES = 1 << 20


class LinedMapping(dict[str, Any]):
    """A mapping that knows the line of each of its keys.

    Attributes:
        lines: From 1, by key.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}


class _Loader(yaml.SafeLoader):
    """Plain YAML; a key that is there twice is refused rather than overwritten."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> LinedMapping:
    found = LinedMapping()
    for key_node, value_node in node.value:
        key = str(key_node.value)
        if key in found:
            raise yaml.MarkedYAMLError(problem=f"{key} is named twice", problem_mark=key_node.start_mark)
        found.lines[key] = key_node.start_mark.line + 1
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def read_yaml(name: str, path: Path, remedy: str) -> LinedMapping:
    """Return a file's mapping.

    Args:
        name: The parameter that named the file.
        path: Of the file.
        remedy: What to do where it cannot be read.

    Raises:
        UserInputError: It cannot be read, is larger than 1 MiB, is not YAML, or holds no mapping.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserInputError(Fault(name, path, "is larger than the 1 MiB that is read.", remedy))
        root = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(Fault(name, path, f"cannot be read: {error}.", remedy)) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UserInputError):
            raise
        raise UserInputError(Fault(name, path, f"is not YAML: {' '.join(str(error).split())}.")) from None
    if not isinstance(root, LinedMapping) or not root:
        raise UserInputError(Fault(name, path, "is empty, or not a mapping of names to values.", remedy))
    return root
