"""YAML in which every key knows its line, so that a fault can be found where it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import Fault, UserInputError

MAX_FILE_BYTES = 1 << 18
MAX_DEPTH = 10  # of mappings and lists within each other; a plan needs seven


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
        UserInputError: It cannot be read, is too large, is not YAML, or holds no mapping.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserInputError(
                Fault(name, path, f"is larger than the {MAX_FILE_BYTES >> 10} KiB that is read.", remedy)
            )
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise OSError("it is not a regular file")
        content = path.read_text(encoding="utf-8")
        check_structure(content)
        loader = _Loader(content)
        try:
            root = loader.get_single_data()
        finally:
            loader.dispose()
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(Fault(name, path, f"cannot be read: {error}.", remedy)) from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserInputError(Fault(f"{path}{line}", None, f"{error.problem}.", "This is not YAML.")) from None
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:
        why = " ".join(str(error).split())
        raise UserInputError(Fault(name, path, f"is not YAML that can be read: {why}.")) from None
    if not isinstance(root, LinedMapping) or not root:
        raise UserInputError(Fault(name, path, "is empty, or not a mapping of names to values.", remedy))
    return root


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
            raise ValueError(f"line {line} is nested more than {MAX_DEPTH} deep")
