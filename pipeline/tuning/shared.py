"""Tensors that worker processes share: one unnamed file, in shared memory or on disk.

Containers often have 64 MiB of shared memory, less than most data sets need.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from pipeline.disk_space import disk_full_errors, is_full
from pipeline.runtime import tensor_bytes
from pipeline.tracking.outbox.local_state import state_folder

SHARED_MEMORY = Path("/dev/shm")
SPARE_BYTES = 8 * 2**20  # left free there, for locks and for other programs
ALIGNMENT = 64  # bytes; more than any number type needs

Layout = Sequence[tuple[torch.dtype, torch.Size]]


class SharedTensors:
    """Tensors in an unnamed file that every process maps; the system removes it with the last of them, killed or not.

    Can be pickled only as an argument of a process that is being started, which receives the file's descriptor.

    Args:
        file: Holds the tensors one after the other, each aligned to `ALIGNMENT`.
        layout: Their types and shapes.
    """

    def __init__(self, file: IO[bytes], layout: Layout):
        self.file, self.layout = file, layout

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The tensors, mapped into this process; changing one changes it for all."""
        mapped = mmap.mmap(self.file.fileno(), 0)
        found, offset = [], 0
        for dtype, shape in self.layout:
            flat = torch.frombuffer(mapped, dtype=dtype, count=shape.numel(), offset=offset)
            found.append(flat.view(shape))
            offset += _aligned(flat.nbytes)
        return found

    def __reduce__(self) -> tuple[Callable[..., SharedTensors], tuple[Any, Layout]]:
        """Pickle the descriptor, never the content."""
        return _receive, (DupFd(self.file.fileno()), self.layout)


def share_tensors(tensors: Sequence[Tensor]) -> SharedTensors:
    """Copy tensors into shared memory, or into a file of the state folder where they do not fit there.

    Args:
        tensors: None of them empty.

    Raises:
        DiskFullError: They do not fit there either.
    """
    size = sum(_aligned(tensor.nbytes) for tensor in tensors)
    layout = [(tensor.dtype, tensor.shape) for tensor in tensors]
    if _free_shared_memory() >= size + SPARE_BYTES:
        try:
            return SharedTensors(_write(tensors, SHARED_MEMORY), layout)
        except OSError as error:
            if not is_full(error):  # another program was faster
                raise
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with disk_full_errors(folder):
        return SharedTensors(_write(tensors, folder), layout)


def _free_shared_memory() -> int:
    """Return how many bytes are free there; 0 on systems without it."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0


def _write(tensors: Iterable[Tensor], folder: Path) -> IO[bytes]:
    """Write rather than map: a full file system then is an error, and not a SIGBUS."""
    with tempfile.TemporaryFile(dir=folder) as file:
        for tensor in tensors:
            file.write(tensor_bytes(tensor))
            file.write(bytes(_aligned(tensor.nbytes) - tensor.nbytes))
        file.flush()
        return open(os.dup(file.fileno()), "rb+")


def _receive(descriptor: Any, layout: Layout) -> SharedTensors:
    return SharedTensors(open(descriptor.detach(), "rb+"), layout)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
