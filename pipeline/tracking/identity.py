"""What makes a result what it is: its code, its parameters, its inputs, its machine."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pipeline.params import StageParams, spell

PACKAGE = Path(__file__).resolve().parent.parent
ROOMS_THAT_MAKE_RESULTS = ("data", "networks", "training", "tuning")
SHARED_STAGE_FILES = ("common", "choosing", "reusing")


@cache
def code_digest(stage: str) -> str:
    """Return a digest of the code that makes a stage's result: rooms, seeds, what stages share, and the stage.

    Syntax trees are compared, without docstrings: comments and layout do not count, uncommitted edits do.
    """
    digest = hashlib.sha256()
    for room in ROOMS_THAT_MAKE_RESULTS:
        digest.update(room_digest(room).encode())
    for file in (PACKAGE / "runtime.py", *(PACKAGE / "stages" / f"{name}.py" for name in (*SHARED_STAGE_FILES, stage))):
        digest.update(_file_digest(file).encode())
    return digest.hexdigest()[:32]


def room_digest(room: str) -> str:
    """Return the digest of one room's code."""
    digests = [f"{path.name}:{_file_digest(path)}" for path in sorted((PACKAGE / room).glob("*.py"))]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:32]


@cache
def _file_digest(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def result_params(params: StageParams) -> dict[str, str]:
    """Return the parameters that a result depends on, in their canonical spelling."""
    found = {}
    for name, field in type(params).model_fields.items():
        extra = field.json_schema_extra
        value = getattr(params, name)
        if isinstance(extra, dict) and extra["changes_result"] and value is not None:
            found[name] = spell(value)
    return found


def cache_key(params: StageParams, inputs: Mapping[str, str], machine: Mapping[str, str]) -> str:
    """Return the key under which a finished result can be recognised.

    Args:
        params: Of the stage.
        inputs: Digests of what it reads: data, base weights, features.
        machine: `Runtime.description`.
    """
    parts = {
        "stage": params.entry_point,
        "params": result_params(params),
        "inputs": dict(inputs),
        "code": code_digest(params.entry_point),
        "machine": dict(machine),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
