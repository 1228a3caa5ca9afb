"""Tensors shared by worker processes: one unnamed file in shared memory or, if that is too small, on disk.

Containers often have only 64 MiB of shared memory, less than most datasets need.
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
from pipeline.state_dir import state_folder

SHARED_MEMORY = Path("/dev/shm")
SPARE_BYTES = 8 * 2**20  # left free for locks and other programs
ALIGNMENT = 64  # bytes; enough for every dtype

Layout = Sequence[tuple[torch.dtype, torch.Size]]


class SharedTensors:
    """Tensors in an unnamed, memory-mapped file; the system removes it after the last process, even if killed.

    Can only be pickled as an argument of a process being started, which inherits the file descriptor.

    Args:
        file: The concatenated tensors, each aligned to `ALIGNMENT`.
        layout: Dtypes and shapes of the tensors.
    """

    def __init__(self, file: IO[bytes], layout: Layout):
        self.file, self.layout = file, layout

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The tensors, mapped into this process; writes are visible to all processes."""
        mapped = mmap.mmap(self.file.fileno(), 0)
        tensors, offset = [], 0
        for dtype, shape in self.layout:
            flat = torch.frombuffer(mapped, dtype=dtype, count=shape.numel(), offset=offset)
            tensors.append(flat.view(shape))
            offset += _aligned(flat.nbytes)
        return tensors

    def __reduce__(self) -> tuple[Callable[..., SharedTensors], tuple[Any, Layout]]:
        """Pickle the file descriptor, not the content."""
        return _from_descriptor, (DupFd(self.file.fileno()), self.layout)


def _from_descriptor(descriptor: Any, layout: Layout) -> SharedTensors:
    return SharedTensors(open(descriptor.detach(), "rb+"), layout)


def share_tensors(tensors: Sequence[Tensor]) -> SharedTensors:
    """Copy non-empty tensors into shared memory or, if they do not fit, into a file in the state folder.

    Raises:
        DiskFullError: The tensors do not fit in the state folder either.
    """
    size = sum(_aligned(tensor.nbytes) for tensor in tensors)
    layout = [(tensor.dtype, tensor.shape) for tensor in tensors]
    if _free_shared_memory() >= size + SPARE_BYTES:
        try:
            return SharedTensors(_write(tensors, SHARED_MEMORY), layout)
        except OSError as error:
            if not is_full(error):  # another program may have used up the space since the check
                raise
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with disk_full_errors(folder):
        return SharedTensors(_write(tensors, folder), layout)


def _free_shared_memory() -> int:
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0


def _write(tensors: Iterable[Tensor], folder: Path) -> IO[bytes]:
    """Write with file I/O, not mmap: a full file system raises OSError instead of SIGBUS."""
    with tempfile.TemporaryFile(dir=folder) as file:
        for tensor in tensors:
            file.write(tensor_bytes(tensor))
            file.write(bytes(_aligned(tensor.nbytes) - tensor.nbytes))
        file.flush()
        return open(os.dup(file.fileno()), "rb+")


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
