"""Read and validate the IDX files of the MNIST family.

torchvision verifies downloads, but not files that are already extracted. Here, every file is checked against its header
and expected shape, and against its published digest or the archive next to it if available.
"""

import gzip
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.data.torchvision_import import torchvision_datasets
from pipeline.errors import DataFileError, Fault

# SHA-256 of the extracted files. Source: the archives that http://yann.lecun.com/exdb/mnist/ published.
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
ITEM_BYTES = {0x08: 1, 0x09: 1, 0x0B: 2, 0x0C: 4, 0x0D: 4, 0x0E: 8}
MAX_FILE_BYTES = 1 << 30
SIDE = 28


@dataclass(frozen=True)
class Layout:
    """Expected layout of a file: its type code and the sizes of all dimensions but the first (None: any)."""

    type_code: int
    sizes: tuple[int | None, ...]


def layout_of(file: str) -> Layout:
    """Return the expected layout of a file of the MNIST family, given its name."""
    if "images" in file:
        return Layout(0x08, (SIDE, SIDE))
    return Layout(0x0C, (None,)) if file.endswith("idx2-int") else Layout(0x08, ())  # QMNIST labels have columns


def read_idx_files(name: str, folder: Path, files: tuple[str, ...]) -> dict[str, Tensor]:
    """Read and validate every file of a dataset.

    torchvision's reader is not used, because it prefers the contents of a folder `processed` over these files.

    Args:
        name: Name of the dataset.
        folder: Folder of its files.
        files: Names of the files.

    Returns:
        Tensors by file name: uint8 images (N, 28, 28) and labels (N,), or int64 labels (N, columns).

    Raises:
        DataFileError: A file is missing, truncated, altered or of the wrong type; the message lists all such files.
    """
    faults, tensors = [], {}
    for file in files:
        path = folder / file
        try:
            tensors[file] = _read(name, path)
        except OSError as error:
            faults.append(_fault(name, path, f"cannot be read: {error.strerror}"))
        except ValueError as error:
            faults.append(_fault(name, path, str(error)))
    if faults:
        raise DataFileError(*faults)
    return tensors


def _fault(name: str, path: Path, why: str) -> Fault:
    remedy = f"Remove it and run again to download {name}, or copy a valid file there."
    return Fault("data_dir", path, f"this file {why}.", remedy)


def _read(name: str, path: Path) -> Tensor:
    """Return the content of one file; raise ValueError if it is invalid."""
    if not path.is_file():
        raise ValueError("is not a regular file" if path.exists() else "is missing")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError("is larger than 1 GiB")
    content = path.read_bytes()
    why = idx_fault(content) or layout_fault(content, layout_of(path.name))
    why = why or (_digest_fault(path.name, content) if name == "mnist" else _archive_fault(name, path, content))
    if why:
        raise ValueError(why)
    return _numbers(content)


def _numbers(content: bytes) -> Tensor:
    """Return the content of a valid file: bytes as uint8, wider types as int64."""
    sizes = idx_sizes(content)
    kind = np.dtype(np.uint8) if content[2] == 0x08 else np.dtype(">i4")
    values = np.frombuffer(content, kind, offset=4 + 4 * len(sizes)).reshape(sizes)
    return torch.from_numpy(values.copy() if kind == np.uint8 else values.astype(np.int64))


def idx_sizes(content: bytes) -> list[int]:
    """Return the sizes of the dimensions in an IDX header."""
    return [int.from_bytes(content[at : at + 4], "big") for at in range(4, 4 + 4 * content[3], 4)]


def layout_fault(content: bytes, layout: Layout) -> str:
    """Return how a valid IDX file differs from the expected layout, or an empty string."""
    sizes = idx_sizes(content)
    matches = len(sizes) == 1 + len(layout.sizes) and all(
        size >= 1 if expected is None else size == expected
        for size, expected in zip(sizes[1:], layout.sizes, strict=True)
    )
    if content[2] != layout.type_code or not matches or sizes[0] == 0:
        shape = " x ".join(["N", *("any" if size is None else str(size) for size in layout.sizes)])
        return (
            f"holds values of type {content[2]:#04x} in the shape {' x '.join(map(str, sizes))} instead of type "
            f"{layout.type_code:#04x} in the shape {shape}"
        )
    return ""


def idx_fault(content: bytes) -> str:
    """Return what is wrong with an IDX file's structure, or an empty string.

    Source: the format's description at http://yann.lecun.com/exdb/mnist/: two zero bytes, a type, the number of
    dimensions, their big-endian sizes, the data.
    """
    if len(content) < 4 or content[0] or content[1] or content[2] not in ITEM_BYTES or not 1 <= content[3] <= 4:
        return "is not an IDX file"
    header = 4 + 4 * content[3]
    if len(content) < header:
        return "is truncated in its header"
    expected = header + math.prod(idx_sizes(content)) * ITEM_BYTES[content[2]]
    if len(content) < expected:
        return f"is truncated: {len(content)} of {expected} bytes"
    return f"has {len(content) - expected} bytes too many" if len(content) > expected else ""


def _digest_fault(file: str, content: bytes) -> str:
    matches = hashlib.sha256(content).hexdigest() == MNIST_SHA256[file]
    return "" if matches else "was altered: its SHA-256 differs from the published one"


def _archive_fault(name: str, path: Path, content: bytes) -> str:
    """Compare a file with the archive it was extracted from, if that is in the same folder."""
    archive = path.with_name(path.name + ".gz")
    if not archive.is_file() or archive.stat().st_size > MAX_FILE_BYTES:
        return ""
    packed, published = archive.read_bytes(), _published_md5(name).get(archive.name)
    if hashlib.md5(packed, usedforsecurity=False).hexdigest() != published:
        return ""  # the archive itself is not trustworthy
    return "" if gzip.decompress(packed) == content else f"was altered: it differs from {archive.name}"


def _published_md5(name: str) -> dict[str, str]:
    classes = {"fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "qmnist": "QMNIST"}
    resources = getattr(torchvision_datasets(), classes[name]).resources
    pairs = resources if isinstance(resources, list) else [pair for part in resources.values() for pair in part]
    return {address.rsplit("/", 1)[-1]: md5 for address, md5 in pairs}
