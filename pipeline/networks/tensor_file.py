"""Read an untrusted safetensors file, and write one incrementally.

Sizes are checked before reading, and nothing is unpickled.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import torch
from torch import Tensor

from pipeline.disk_space import disk_full_errors

MAX_HEADER_BYTES = 32 << 20  # a checkpoint's history takes at most 20 MB of its header
MAX_TENSORS = 10_000
FORMAT_DTYPES = {torch.float32: "F32", torch.int64: "I64"}
ALIGNMENT = 64  # bytes


def read_tensor_file(path: Path, max_bytes: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors by name, and the metadata in the header.

    Raises:
        ValueError: Not a valid safetensors file, or a limit is exceeded.
        OSError: Missing or not readable.
    """
    check_sizes(path, max_bytes)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise ValueError(f"contains {len(names)} tensors (limit: {MAX_TENSORS})")
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (
        safetensors.SafetensorError,
        TypeError,
        RuntimeError,
    ) as error:  # TypeError, RuntimeError: sizes that overflow
        raise ValueError(str(error).strip().splitlines()[0]) from None


def allocate_tensor_file(path: Path, shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Create a safetensors file of zeros, and return its tensors, memory-mapped for writing.

    Raises:
        DiskFullError: It does not fit on the disk.
    """
    entries: dict[str, object] = {}
    end = 0
    for name, (dtype, shape) in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": FORMAT_DTYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-(8 + len(header)) % ALIGNMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_errors(path.parent), path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(
                file.fileno(), 0, 8 + len(header) + end
            )  # a full disk would kill a writer to the mapping
        else:
            file.truncate(8 + len(header) + end)
    tensors, offset = {}, 8 + len(header)
    for name, (dtype, shape) in shapes.items():
        kind = np.dtype(str(dtype).removeprefix("torch."))
        tensors[name] = torch.from_numpy(np.memmap(path, kind, "r+", offset, shape))
        offset += math.prod(shape) * dtype.itemsize
    return tensors


def check_sizes(path: Path, max_bytes: int) -> None:
    """Check file type, file size and declared header size, reading 8 bytes only.

    Raises:
        ValueError: Not a regular file, too large, or truncated.
        OSError: Missing or not readable.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a named pipe would hang
        raise ValueError("not a regular file")
    if status.st_size > max_bytes:
        raise ValueError(f"file size of {status.st_size} bytes exceeds the limit of {max_bytes}")
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if status.st_size < 8 + header_bytes:
        raise ValueError(f"truncated: {status.st_size} bytes, but the header alone declares {header_bytes}")
    if header_bytes > MAX_HEADER_BYTES:
        raise ValueError(f"header size of {header_bytes} bytes exceeds the limit of {MAX_HEADER_BYTES}")
