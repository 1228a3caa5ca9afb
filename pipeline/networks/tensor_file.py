"""Reading a safetensors file that may come from anyone: bounded before it is read, and never unpickled.

The library holds the header against the file's own length; here the sizes are held against limits first, and
whatever is wrong comes out as one kind of exception.
"""

from __future__ import annotations

import stat
from pathlib import Path

import safetensors
from torch import Tensor

MAX_HEADER_BYTES = 32 << 20  # the longest history that a checkpoint's header may hold has 20 MB
MAX_TENSORS = 10_000


def read_tensor_file(path: Path, max_bytes: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file by name, and the words in its header.

    Args:
        path: Of the file.
        max_bytes: What the file may hold at most.

    Raises:
        ValueError: It is not a whole safetensors file, or larger than the limits; says why.
        OSError: It is missing or cannot be read.
    """
    check_sizes(path, max_bytes)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise ValueError(f"it names {len(names)} tensors, more than the {MAX_TENSORS} that are read")
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (safetensors.SafetensorError, TypeError, RuntimeError) as error:  # the last two: sizes that overflow
        raise ValueError(str(error).strip().splitlines()[0]) from None


def check_sizes(path: Path, max_bytes: int) -> None:
    """Look at a file's kind, its size and its header's claimed size, without reading further.

    Raises:
        ValueError: It is no regular file, too large or too small, or its header claims too much.
        OSError: It is missing or cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
        raise ValueError("it is not a regular file")
    if found.st_size > max_bytes:
        raise ValueError(f"it holds {found.st_size} bytes, more than the {max_bytes} that are read")
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if found.st_size < 8 + header_bytes:
        raise ValueError(f"it is truncated: {found.st_size} bytes, of which its header alone claims {header_bytes}")
    if header_bytes > MAX_HEADER_BYTES:
        raise ValueError(f"its header claims {header_bytes} bytes, more than the {MAX_HEADER_BYTES} that are read")
