"""YAML mappings that know the line of each key, so that an error message can name it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import Fault, UserInputError

MAX_FILE_BYTES = 1 << 18
MAX_DEPTH = 10  # nested mappings and lists; a plan needs seven


class LinedMapping(dict[str, Any]):
    """A mapping that knows the line of each of its keys."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}  # line number by key, from 1


class _Loader(yaml.SafeLoader):
    """Safe YAML loader that rejects duplicate keys."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> LinedMapping:
    mapping = LinedMapping()
    for key_node, value_node in node.value:
        key = str(key_node.value)
        if key in mapping:
            raise yaml.MarkedYAMLError(problem=f"duplicate key: {key}", problem_mark=key_node.start_mark)
        mapping.lines[key] = key_node.start_mark.line + 1
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


def without_lines(value: Any) -> Any:
    """Return a value read from YAML with plain dicts in place of its mappings, at any depth."""
    if isinstance(value, dict):
        return {key: without_lines(item) for key, item in value.items()}
    return [without_lines(item) for item in value] if isinstance(value, list) else value


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def read_yaml(name: str, path: Path, remedy: str) -> LinedMapping:
    """Return the mapping in a YAML file; error messages give `name`, the parameter with its path, and `remedy`.

    Raises:
        UserInputError: The file cannot be read, is too large, is not YAML, or holds no mapping.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserInputError(Fault(name, path, f"must be at most {MAX_FILE_BYTES >> 10} KiB.", remedy))
        if not path.is_file():  # opening a pipe would block
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
        raise UserInputError(Fault(f"{path}{line}", None, f"{error.problem}.", "This is not valid YAML.")) from None
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, IndexError) as error:  # IndexError: `!!int` alone
        why = " ".join(str(error).split())
        raise UserInputError(Fault(name, path, f"is not valid YAML: {why}.")) from None
    if not isinstance(root, LinedMapping) or not root:
        raise UserInputError(Fault(name, path, "is empty, or not a mapping of names to values.", remedy))
    return root


def check_structure(content: str) -> None:
    """Check YAML text event by event, before any object is built from it.

    Raises:
        ValueError: It is nested too deeply, or uses aliases, by which a few lines can expand to gigabytes.
        yaml.YAMLError: It is not YAML.
    """
    depth = 0
    for event in yaml.parse(content, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {line} uses an alias (*{event.anchor}); repeat the value instead")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"line {line} is nested more than {MAX_DEPTH} levels deep")
