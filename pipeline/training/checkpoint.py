"""Saving and loading the state of a fit: whole or not at all, checked when read, nothing unpickled.

One safetensors file holds weights, best weights and optimizer state as tensors, and counters and history as JSON
in its header, with a digest over all of it. A file is written beside its name and renamed onto it, so a reader
finds the old one or the new one; `previous` is kept for the day `last` turns out to be damaged.
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

FORMAT = "1"
MAX_CHECKPOINT_BYTES = 2 << 30  # the largest network that is built, five times over: copies and optimizer state
LAST, PREVIOUS, BEST = "last", "previous", "best"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and facts that JSON can hold."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors under `prefix/`, without it."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(prefix + "/")}


def grouped(**groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of several groups in one dictionary, named `group/name`."""
    return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, keep_as: Path | None = None) -> None:
    """Write a checkpoint atomically.

    Args:
        path: Where to.
        checkpoint: What.
        keep_as: What becomes of a file that is there already, once the new one is whole; None replaces it.

    Raises:
        DiskFullError: There is no room; the files that were there are untouched.
        OSError: The folder cannot be written, likewise.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    facts = json.dumps(checkpoint.facts, sort_keys=True)
    header = {"format": FORMAT, "facts": facts, "digest": _digest(tensors, facts)}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with disk_full_errors(path.parent):
            beside.write_bytes(safetensors.torch.save(tensors, header))
        if keep_as is not None and path.exists():
            path.replace(keep_as)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check it.

    Raises:
        CheckpointError: The file is missing, truncated, altered, or of another format; the message names it.
    """
    try:
        tensors, header = read_tensor_file(path, MAX_CHECKPOINT_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint ({error})") from error
    text = header.get("facts", "")
    if header.get("format") != FORMAT or header.get("digest") != _digest(tensors, text):
        raise CheckpointError(f"{path}: was altered after it was written, or is of another version")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header holds no facts ({error})") from None
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path}: its header holds no facts by name")
    return Checkpoint(tensors, facts)


def _digest(tensors: dict[str, Tensor], facts: str) -> str:
    return hashlib.sha256((weights_digest(tensors) + facts).encode()).hexdigest()[:32]


class CheckpointFolder:
    """The checkpoints of one fit under their fixed names: `last`, `previous`, `best`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return where the checkpoint of that name lies."""
        return self.folder / f"{name}.safetensors"

    def save_last(self, checkpoint: Checkpoint) -> None:
        """Write `last`; once it is whole, what was `last` becomes `previous`."""
        save_checkpoint(self.path(LAST), checkpoint, keep_as=self.path(PREVIOUS))

    def save_best(self, checkpoint: Checkpoint) -> None:
        """Write `best`."""
        save_checkpoint(self.path(BEST), checkpoint)

    def newest(self, passed_over: Callable[[str], None] | None = None) -> Checkpoint | None:
        """Return `last`, or `previous` where `last` is missing or damaged; None where there is neither.

        Args:
            passed_over: Told of a damaged one where the other one serves.

        Raises:
            CheckpointError: There are checkpoints, and none of them is whole.
        """
        damaged = []
        for name in (LAST, PREVIOUS):
            if self.path(name).exists():
                try:
                    found = load_checkpoint(self.path(name))
                except CheckpointError as error:
                    damaged.append(str(error))
                    continue
                if damaged and passed_over is not None:
                    passed_over("; ".join(damaged))
                return found
        if damaged:
            raise CheckpointError("; ".join(damaged))
        return None
