"""The cache key of a step: its code, parameters, inputs and machine."""

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
TARGET_STAGES = ("cache_features", "probe", "transfer", "finetune_cnn", "scratch_cnn")

Parts = dict[str, dict[str, str]]


@dataclass(frozen=True)
class CacheKey:
    """The key of a cached result; its parts are `params`, `inputs`, `code` (digests of files) and `machine`."""

    stage: str
    parts: Parts

    @property
    def digest(self) -> str:
        """Digest over the stage and all parts, 32 hexadecimal digits."""
        text = json.dumps({"stage": self.stage, **self.parts}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def tags(self) -> dict[str, object]:
        """Return the run tags for looking up the result and explaining later cache misses."""
        return {names.CACHE_KEY: self.digest, names.KEY_PARTS: json.dumps(self.parts, sort_keys=True)}

    def changes_since(self, old: Parts) -> dict[str, list[str]]:
        """Describe what has changed since an older key, as part -> changes, such as `width changed (100 -> 50)`."""
        changes = {}
        for part, new_values in self.parts.items():
            old_values = old.get(part, {})
            differing = [
                (name, old_values.get(name, "(none)"), new_values.get(name, "(none)"))
                for name in sorted(new_values.keys() | old_values.keys())
                if new_values.get(name) != old_values.get(name)
            ]
            with_values = part in ("params", "machine")
            if differing:
                changes[part] = [f"{n} changed" + (f" ({a} -> {b})" if with_values else "") for n, a, b in differing]
        return changes


def cache_key(params: StageParams, inputs: Mapping[str, str], machine: Mapping[str, str]) -> CacheKey:
    """Return the cache key of a step, from digests of its inputs and from `Runtime.description`."""
    stage = params.entry_point
    parts = {"params": key_params(params), "inputs": dict(inputs), "code": code_parts(stage)}
    return CacheKey(stage, {**parts, "machine": dict(machine)})


@cache
def code_parts(stage: str) -> dict[str, str]:
    """Return a digest per source file that affects a stage's result.

    Digests are computed from syntax trees without docstrings: comments, formatting and the Python version do not
    matter, uncommitted edits do.
    """
    files = [path for package in PACKAGES_IN_KEY for path in sorted((PACKAGE / package).rglob("*.py"))]
    if stage == "tune":
        modules = ("job", "objective", "sampling", "schedule", "search_space", "shared_examples", "tasks")
        files += [PACKAGE / "tuning" / f"{name}.py" for name in modules]
        files += [PACKAGE / "stages" / f"{name}.py" for name in ("tune_setup", "tune_search")]
    shared: tuple[str, ...] = ("fit_settings", "training_run", "training_result", "fitting", "fit_summary")
    shared += ("data_loading", "augment", "base_network")
    if stage in TARGET_STAGES:
        shared += ("cut_pass",) if stage in ("cache_features", "probe") else ()
        shared += ("base_selection", "target_setup", "feature_source", "strategy", "target_training")
    if stage == "import_base":
        shared += ("imported_network",)
    if stage == "tune":
        shared += ("tune_search", "tune_setup")
    files += [PACKAGE / "stages" / f"{name}.py" for name in (*shared, stage)]
    return {str(path.relative_to(PACKAGE)): _file_digest(path)[:12] for path in (PACKAGE / "runtime.py", *files)}


def code_digest(stage: str) -> str:
    """Return one digest over all source files that affect a stage's result."""
    return hashlib.sha256(json.dumps(code_parts(stage)).encode()).hexdigest()[:32]


@cache
def _file_digest(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        if isinstance(node, ast.JoinedStr):  # Python 3.12 appends an empty string to some
            node.values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
    return hashlib.sha256(json.dumps(_syntax(tree)).encode()).hexdigest()


def _syntax(node: object) -> object:
    """Return a syntax tree as nested lists without empty fields, so that it is the same for every Python version."""
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
        return [type(node).__name__, *([name, _syntax(value)] for name, value in fields)]
    return [_syntax(child) for child in node] if isinstance(node, list) else ascii(node)


def key_params(params: StageParams) -> dict[str, str]:
    """Return the parameters that affect a result, in canonical spelling."""
    affecting = {}
    for name, field in type(params).model_fields.items():
        extra = field.json_schema_extra
        value = getattr(params, name)
        if isinstance(extra, dict) and extra["changes_result"] and value is not None:
            affecting[name] = spell(value)
    return affecting
