"""Save and load the state of a fit: atomic, with a digest, without pickle.

A checkpoint is one safetensors file: weights, best weights and optimizer state as tensors; counters, history and a
digest over everything as JSON in the header. Of frozen blocks, it holds only a digest, because they are those of the
base. Files are written to a temporary name and renamed; `previous` is the fallback if `last` is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from pipeline.disk_space import disk_full_errors
from pipeline.errors import CheckpointError
from pipeline.networks.build import weights_digest
from pipeline.networks.tensor_file import read_tensor_file

FORMAT = "2"
READABLE_FORMATS = ("1", FORMAT)  # 1 holds frozen tensors too
MAX_CHECKPOINT_BYTES = 2 << 30  # five times the largest network, for copies and optimizer state
LAST, PREVIOUS, BEST = "last", "previous", "best"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and JSON-serializable metadata."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors named `prefix/...`, without the prefix."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(prefix + "/")}


def merge_groups(**groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of several groups as one dictionary with names `group/name`."""
    return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, keep_as: Path | None = None) -> None:
    """Write a checkpoint atomically.

    Args:
        path: Path of the file.
        checkpoint: Content of the file.
        keep_as: New path of an existing file; None overwrites it.

    Raises:
        DiskFullError: The disk is full; existing files are untouched.
        OSError: The folder is not writable; existing files are untouched.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    facts = json.dumps(checkpoint.facts, sort_keys=True)
    header = {"format": FORMAT, "facts": facts, "digest": _digest(tensors, facts)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with disk_full_errors(path.parent):
            temporary.write_bytes(safetensors.torch.save(tensors, header))
        if keep_as is not None and path.exists():
            path.replace(keep_as)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        CheckpointError: The file is missing, truncated, altered, or of another format.
    """
    try:
        tensors, header = read_tensor_file(path, MAX_CHECKPOINT_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a complete checkpoint ({error})") from error
    text = header.get("facts", "")
    if header.get("format") not in READABLE_FORMATS or header.get("digest") != _digest(tensors, text):
        raise CheckpointError(f"{path}: altered, or of another format version")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not valid JSON ({error})") from None
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path}: the header is not a JSON object")
    return Checkpoint(tensors, facts)


def _digest(tensors: dict[str, Tensor], facts: str) -> str:
    return hashlib.sha256((weights_digest(tensors) + facts).encode()).hexdigest()[:32]


class CheckpointFolder:
    """The checkpoints of one fit under their fixed names: `last`, `previous`, `best`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return the path of a checkpoint."""
        return self.folder / f"{name}.safetensors"

    def save_last(self, checkpoint: Checkpoint) -> None:
        """Write `last`; the old `last` becomes `previous`."""
        save_checkpoint(self.path(LAST), checkpoint, keep_as=self.path(PREVIOUS))

    def save_best(self, checkpoint: Checkpoint) -> None:
        """Write `best`."""
        save_checkpoint(self.path(BEST), checkpoint)

    def newest(self, on_damaged: Callable[[str], None] | None = None) -> Checkpoint | None:
        """Return `last`, or `previous` if `last` is missing or damaged; None if there are no checkpoints.

        Args:
            on_damaged: Called with the error message if `last` is damaged and `previous` is used.

        Raises:
            CheckpointError: All checkpoints are damaged.
        """
        damaged = []
        for name in (LAST, PREVIOUS):
            if self.path(name).exists():
                try:
                    checkpoint = load_checkpoint(self.path(name))
                except CheckpointError as error:
                    damaged.append(str(error))
                    continue
                if damaged and on_damaged is not None:
                    on_damaged("; ".join(damaged))
                return checkpoint
        if damaged:
            raise CheckpointError("; ".join(damaged))
        return None
