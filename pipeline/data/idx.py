"""Checking the MNIST family's IDX files before torchvision reads them.

torchvision checks what it downloads but not what it finds extracted on disk. Here a file is held against its
published digest where that is known, against the archive it came from where that lies beside it, and against
its own header in any case.
"""

from __future__ import annotations

import gzip
import hashlib
import math
from pathlib import Path

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


def verify_idx_files(name: str, folder: Path, files: tuple[str, ...]) -> None:
    """Check every file of a data set.

    Args:
        name: The data set's name.
        folder: Where its files lie.
        files: Their names.

    Raises:
        DataFileError: Naming each file that is truncated, altered or not an IDX file.
    """
    faults = []
    for file in files:
        path = folder / file
        try:
            why = idx_fault(path.read_bytes()) if path.stat().st_size <= MAX_FILE_BYTES else "is larger than 1 GiB"
        except OSError as error:
            why = f"cannot be read: {error.strerror}"
        why = why or (_digest_fault(path) if name == "mnist" else _archive_fault(name, path))
        if why:
            remedy = f"Remove it and run again to download {name}, or copy a good file there."
            faults.append(Fault("data_dir", path, f"this file {why}, and is not trained on.", remedy))
    if faults:
        raise DataFileError(*faults)


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
    sizes = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    expected = header + math.prod(sizes) * ITEM_BYTES[content[2]]
    if len(content) < expected:
        return f"is truncated: {len(content)} of {expected} bytes"
    return f"has {len(content) - expected} bytes too many" if len(content) > expected else ""


def _digest_fault(path: Path) -> str:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if found == MNIST_SHA256[path.name] else "was altered: its SHA-256 is not the published one"


def _archive_fault(name: str, path: Path) -> str:
    """Hold a file against the archive it was extracted from, where that lies beside it."""
    archive = path.with_name(path.name + ".gz")
    published = _published_md5(name).get(archive.name)
    if published is None or not archive.is_file():
        return ""
    content = archive.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != published:
        return ""  # the archive itself is not good evidence
    return "" if gzip.decompress(content) == path.read_bytes() else f"was altered: it differs from {archive.name}"


def _published_md5(name: str) -> dict[str, str]:
    classes = {"fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "qmnist": "QMNIST"}
    resources = getattr(torchvision_datasets(), classes[name]).resources
    pairs = resources if isinstance(resources, list) else [pair for part in resources.values() for pair in part]
    return {address.rsplit("/", 1)[-1]: md5 for address, md5 in pairs}
