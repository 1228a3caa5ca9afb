"""A complete store: the pixels of all files of a source, with the records that they are verified against."""

import fcntl
import functools
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from pipeline.data.decode import Pixels
from pipeline.data.preprocessing import Geometry
from pipeline.data.store.decoding import damaged_rows
from pipeline.data.store.files import RECORD, Records, source_key
from pipeline.data.store.worker import PIXELS, RECORDS
from pipeline.disk_space import disk_full_errors
from pipeline.leftovers import Leftover
from pipeline.state_dir import state_folder

logger = logging.getLogger(__name__)

MEMORY_BYTES = 16 << 20  # larger stores are memory-mapped: reading them would take longer than using them
VERIFIED_BYTES = 256 << 20  # of larger stores, only a sample of rows is verified when they are opened
SAMPLED_ROWS = 256
SOURCE = "source.json"
PARTIAL = "partial-"


@dataclass(frozen=True)
class StoreKey:
    """Identifies a store by its content.

    Attributes:
        records: Records of its rows, in order; rows that are not `done` hold no image.
        geometry: Geometry of its images.
    """

    records: Records
    geometry: Geometry

    @property
    def folder(self) -> Path:
        """Folder of the store."""
        digest = sha256(self.geometry.digest.encode())
        digest.update(np.ascontiguousarray(self.records["digest"]).tobytes())
        return images_folder() / digest.hexdigest()[:32]

    @property
    def row_bytes(self) -> int:
        """Bytes of one image."""
        channels, height, width = self.geometry.image_shape
        return channels * height * width


def images_folder() -> Path:
    """Return the folder of all decoded images."""
    return state_folder() / "images"


def source_lock(key: str) -> FileLock:
    """Return the lock that a process holds while it decodes a source."""
    path = images_folder() / "locks" / f"{key}.lock"
    with disk_full_errors(state_folder()):
        path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def open_store(key: StoreKey, *, verify: bool = False) -> Tensor | None:
    """Verify a store and return its pixels; None if it is missing or damaged. A damaged store is removed.

    Args:
        key: Key of the store.
        verify: Verify every checksum of a large store, not just a sample.
    """
    folder = key.folder
    if not folder.is_dir():
        return None
    if fault := _fault(key, verify=verify):
        logger.warning("the decoded images in %s are damaged (%s): decoding again", folder, fault)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    return read_store(key)


def read_store(key: StoreKey) -> Tensor:
    """Return the pixels uint8 (N, C, H, W) of an intact store, in memory or memory-mapped.

    Other processes can map the file of a memory-mapped tensor by its path (`tensor.untyped_storage().filename`).
    """
    _lock_until_exit(key.folder / RECORDS)
    count = len(key.records)
    path, size = key.folder / PIXELS, count * key.row_bytes
    if size <= MEMORY_BYTES:
        pixels = torch.from_numpy(np.fromfile(path, np.uint8))
    else:
        pixels = torch.from_file(str(path), shared=os.access(path, os.W_OK), size=size, dtype=torch.uint8)
    return pixels.reshape(count, *key.geometry.image_shape)


def _fault(key: StoreKey, *, verify: bool) -> str:
    """Return what is wrong with a store, or an empty string."""
    try:
        records = np.fromfile(key.folder / RECORDS, RECORD)
        size = (key.folder / PIXELS).stat().st_size
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    count = len(key.records)
    if len(records) != count or not np.array_equal(records["digest"], key.records["digest"]):
        return f"{RECORDS} does not match"
    if size != count * key.row_bytes:
        return f"{PIXELS} has {size} instead of {count * key.row_bytes} bytes"
    rows = np.flatnonzero(records["done"] == 1)
    if size > VERIFIED_BYTES and not verify:
        rows = rows[np.unique([secrets.randbelow(len(rows)) for _ in range(SAMPLED_ROWS)] + [0, len(rows) - 1])]
    damaged = int(damaged_rows(key.folder / PIXELS, records, key.row_bytes, rows=rows).sum())
    return f"{damaged} of {len(rows)} checked images have a wrong checksum" if damaged else ""


@functools.cache
def _lock_until_exit(path: Path) -> int:
    """Lock a store until this process exits, so that `clean` does not remove it; return the file descriptor."""
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def finish_store(partial: Path, key: StoreKey) -> Tensor:
    """Turn a fully decoded partial store into a complete store, atomically, and return its pixels.

    Raises:
        DiskFullError: The images cannot be flushed to the disk.
    """
    if (existing := open_store(key)) is not None:  # of another source with the same files
        shutil.rmtree(partial)
        return existing
    with disk_full_errors(partial.parent):
        _publish(partial, key)
    return read_store(key)


def store_array(source: str, pixels: Iterable[Pixels], key: StoreKey) -> Tensor:
    """Write images as a complete store, and return them.

    Args:
        source: Source of the images, printed by `clean`.
        pixels: Consecutive chunks, uint8 (n, C, H, W).
        key: Key of the store.

    Raises:
        DiskFullError: The store does not fit on the disk.
    """
    partial = images_folder() / f"{PARTIAL}{source_key(source)}-{key.folder.name[:8]}"
    with disk_full_errors(state_folder()):
        partial.mkdir(parents=True, exist_ok=True)
        (partial / SOURCE).write_text(json.dumps({"source": ascii(source)}), encoding="ascii")
        write_file(partial / PIXELS, pixels)
        key.records.tofile(partial / RECORDS)
        _publish(partial, key)
    return read_store(key)


def write_file(path: Path, parts: Iterable[Pixels]) -> None:
    """Write arrays to a file; remove it if it does not fit."""
    try:
        with open(path, "wb") as file:
            for part in parts:
                file.write(np.ascontiguousarray(part).data)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _publish(partial: Path, key: StoreKey) -> None:
    with open(partial / PIXELS, "rb") as file:
        os.fsync(file.fileno())
    try:
        os.rename(partial, key.folder)
    except OSError:
        if not key.folder.is_dir():
            raise
        shutil.rmtree(partial)  # another process has published the same content


def list_image_stores() -> Iterator[Leftover]:
    """Yield every store of decoded images; those that no process uses can be removed, as they can be rebuilt."""
    for folder in sorted(images_folder().glob("*")):
        if folder.name == "locks" or not folder.is_dir() or folder.is_symlink():
            continue
        kind = "decoded images" if folder.name != "manifests" else "digests of image files"
        why = f"of {_source(folder)}; decoded again when needed" if folder.name != "manifests" else "computed again"
        if folder.name.startswith(PARTIAL):
            why = f"of {_source(folder)}; incomplete: resumed when needed"
        in_use = not _unused(folder)
        why = "a process is using it" if in_use else why
        yield Leftover(kind, folder, not in_use, why, functools.partial(_remove, folder))


def _source(folder: Path) -> str:
    try:
        return str(json.loads((folder / SOURCE).read_text(encoding="ascii"))["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return "an unknown source"


def _remove(folder: Path) -> bool:
    return _unused(folder, delete=True)


def _unused(folder: Path, *, delete: bool = False) -> bool:
    """Return whether no process uses a store; delete it if requested."""
    if folder.name.startswith(PARTIAL):
        lock = source_lock(folder.name.removeprefix(PARTIAL).split("-")[0])
        try:
            with lock.acquire(timeout=0):
                return _deleted(folder, delete)
        except Timeout:
            return False
    try:
        descriptor = os.open(folder / RECORDS, os.O_RDONLY)
    except OSError:
        return _deleted(folder, delete)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _deleted(folder, delete)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _deleted(folder: Path, delete: bool) -> bool:
    if delete:
        shutil.rmtree(folder)
    return True
