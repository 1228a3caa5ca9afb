"""Read an untrusted safetensors file: check sizes before reading, and never unpickle."""

from __future__ import annotations

import stat
from pathlib import Path

import safetensors
from torch import Tensor

MAX_HEADER_BYTES = 32 << 20  # a checkpoint's history takes at most 20 MB of its header
MAX_TENSORS = 10_000


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
