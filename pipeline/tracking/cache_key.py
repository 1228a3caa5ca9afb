"""What makes a result what it is: its code, its parameters, its inputs, its machine."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.params import StageParams, spell
from pipeline.tracking import names

PACKAGE = Path(__file__).resolve().parent.parent
PACKAGES_IN_KEY = ("data", "networks", "training")
TARGET_STAGES = ("cache_features", "transfer", "finetune_cnn", "scratch_cnn")

Parts = dict[str, dict[str, str]]


@dataclass(frozen=True)
class CacheKey:
    """The key under which a finished result is recognised.

    Attributes:
        stage: The entry point.
        parts: `params`, `inputs`, `code` (a digest a file) and `machine`: names and values.
    """

    stage: str
    parts: Parts

    @property
    def digest(self) -> str:
        """All of it in 32 hexadecimal digits."""
        text = json.dumps({"stage": self.stage, **self.parts}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def tags(self) -> dict[str, object]:
        """The tags by which a run can be found again, and by which a later one can tell what changed."""
        return {names.CACHE_KEY: self.digest, names.KEY_PARTS: json.dumps(self.parts, sort_keys=True)}

    def differences(self, other: Parts) -> list[str]:
        """Say in which parts another key differs, such as `code: training/loop.py`."""
        found = []
        for part, mine in self.parts.items():
            theirs = other.get(part, {})
            changed = [name for name in sorted(mine.keys() | theirs.keys()) if mine.get(name) != theirs.get(name)]
            if part in ("params", "machine"):
                changed = [f"{name} {theirs.get(name, '(none)')} -> {mine.get(name, '(none)')}" for name in changed]
            if changed:
                found.append(f"{part}: {', '.join(changed)}")
        return found


def cache_key(params: StageParams, inputs: Mapping[str, str], machine: Mapping[str, str]) -> CacheKey:
    """Return the key of a result.

    Args:
        params: Of the stage.
        inputs: Digests of what it reads: data, base weights, architecture.
        machine: `Runtime.description`.
    """
    stage = params.entry_point
    parts = {"params": key_params(params), "inputs": dict(inputs), "code": code_parts(stage)}
    return CacheKey(stage, {**parts, "machine": dict(machine)})


@cache
def code_parts(stage: str) -> dict[str, str]:
    """Return a digest of each file whose code makes a stage's result: rooms, seeds, what stages share, the stage.

    Syntax trees are compared, without docstrings: comments, layout and Python's version do not count, uncommitted
    edits do.
    """
    files = [path for room in PACKAGES_IN_KEY for path in sorted((PACKAGE / room).rglob("*.py"))]
    if stage == "tune":
        files += [PACKAGE / "tuning" / f"{name}.py" for name in ("objective", "search_space", "study", "workers")]
    shared = ("training_run", "base_selection", "target_training") if stage in TARGET_STAGES else ("training_run",)
    files += [PACKAGE / "stages" / f"{name}.py" for name in (*shared, stage)]
    return {str(path.relative_to(PACKAGE)): _file_digest(path)[:12] for path in (PACKAGE / "runtime.py", *files)}


def code_digest(stage: str) -> str:
    """Return one digest over the code that makes a stage's result."""
    return hashlib.sha256(json.dumps(code_parts(stage)).encode()).hexdigest()[:32]


@cache
def _file_digest(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        if isinstance(node, ast.JoinedStr):  # Python 3.12 ends some with an empty part
            node.values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
    return hashlib.sha256(json.dumps(_syntax(tree)).encode()).hexdigest()


def _syntax(node: object) -> object:
    """Return a syntax tree as nested lists, equal on every Python version: later ones add fields, empty if unused."""
    if isinstance(node, ast.AST):
        used = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
        return [type(node).__name__, *([name, _syntax(value)] for name, value in used)]
    return [_syntax(one) for one in node] if isinstance(node, list) else ascii(node)


def key_params(params: StageParams) -> dict[str, str]:
    """Return the parameters that a result depends on, in their canonical spelling."""
    found = {}
    for name, field in type(params).model_fields.items():
        extra = field.json_schema_extra
        value = getattr(params, name)
        if isinstance(extra, dict) and extra["changes_result"] and value is not None:
            found[name] = spell(value)
    return found
