"""Image files to decode, and the record of each. Imports no torch, so that worker processes start quickly."""

import os
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Per image: whether its pixels are stored, whether it is gray, its native size (upright), the checksum of its stored
# pixels, its identity, and the digest of its file.
RECORD = np.dtype([
    ("done", "u1"), ("gray", "u1"), ("height", "<u4"), ("width", "<u4"),
    ("crc", "<u4"), ("id", "<i8"), ("digest", "V16"),
])  # fmt: skip
Records = NDArray[np.void]


def source_key(source: str) -> str:
    """Return 16 hexadecimal digits that identify a source by its name."""
    return sha256(os.fsencode(source)).hexdigest()[:16]


@dataclass(frozen=True)
class ImageFiles:
    """Image files in a fixed order.

    Attributes:
        source: Canonical name of the dataset.
        root: Folder that contains the files.
        names: Paths of the files, relative to `root`.
        sizes: int64 (N,), in bytes.
        mtimes: int64 (N,), modification times in nanoseconds.
    """

    source: str
    root: Path
    names: list[str]
    sizes: NDArray[np.int64]
    mtimes: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.names)

    @property
    def source_key(self) -> str:
        """16 hexadecimal digits that identify the source."""
        return source_key(self.source)

    @cached_property
    def names_blob(self) -> NDArray[np.uint8]:
        """All names as one byte array, which is fast to compare and store."""
        return np.frombuffer(os.fsencode("\0".join(self.names)), np.uint8)

    def same_as(self, names_blob: NDArray[np.uint8], sizes: NDArray[np.int64], mtimes: NDArray[np.int64]) -> bool:
        """Return whether names, sizes and modification times match."""
        pairs = ((self.names_blob, names_blob), (self.sizes, sizes), (self.mtimes, mtimes))
        return all(np.array_equal(current, stored) for current, stored in pairs)
