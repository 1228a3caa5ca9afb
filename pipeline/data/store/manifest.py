"""Which files of a source have been decoded before: a second start trusts path, size and modification time."""

from __future__ import annotations

import io
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from pipeline.data.decode import FileChangedError, UnreadableImageError, byte_digest, decode, read_bytes
from pipeline.data.store.files import RECORD, ImageFiles, Records
from pipeline.disk_space import disk_full_errors

logger = logging.getLogger(__name__)

HASHING_THREADS = 4


@dataclass(frozen=True)
class Manifest:
    """What is known of a source's files.

    Attributes:
        records: One per file.
        unreadable: Why a file could not be decoded, by row.
    """

    records: Records
    unreadable: dict[int, str]


def manifest_path(images: Path, files: ImageFiles) -> Path:
    """Return where a source's manifest lies."""
    return images / "manifests" / f"{files.source_key}.npz"


def read_manifest(images: Path, files: ImageFiles, *, verify: bool) -> Manifest | None:
    """Return what is known of the files, or None if one was added, removed or changed.

    Args:
        images: Folder of all stores.
        files: As they are now.
        verify: Compare the digest of every file, too.
    """
    try:
        with np.load(manifest_path(images, files), allow_pickle=False) as stored:
            same = files.same_as(stored["names"], stored["sizes"], stored["mtimes"])
            records = stored["records"].view(RECORD)
            reasons = json.loads(stored["unreadable"].tobytes())
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    if not same or len(records) != len(files):
        return None
    manifest = Manifest(records, {int(row): str(why) for row, why in reasons.items()})
    if any(_is_readable(files.root / files.names[row]) for row in manifest.unreadable):
        return None
    return None if verify and _files_differ(files, manifest) else manifest


def write_manifest(images: Path, files: ImageFiles, manifest: Manifest) -> None:
    """Store what is known of the files.

    Raises:
        DiskFullError: It does not fit on the disk.
    """
    path = manifest_path(images, files)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.savez(
        content,
        names=files.names_blob,
        sizes=files.sizes,
        mtimes=files.mtimes,
        records=np.ascontiguousarray(manifest.records).view(np.uint8),
        unreadable=np.frombuffer(json.dumps(manifest.unreadable).encode(), np.uint8),
    )
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with disk_full_errors(path.parent):
        try:
            temporary.write_bytes(content.getvalue())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _is_readable(path: Path) -> bool:
    """Return whether a file that could not be read can be read by now, such as after a change of its permissions."""
    try:
        decode(read_bytes(path))
    except (OSError, UnreadableImageError, FileChangedError):
        return False
    return True


def _files_differ(files: ImageFiles, manifest: Manifest) -> bool:
    """Hash all readable files again, and return whether one has another digest."""
    rows = [row for row in range(len(files)) if row not in manifest.unreadable]

    def differs(row: int) -> bool:
        content = read_bytes(os.path.join(files.root, files.names[row]))
        return byte_digest(content) != bytes(manifest.records["digest"][row])

    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        count = sum(threads.map(differs, rows, chunksize=256))
    if count:
        logger.warning("%d files of %s changed but kept their size and time: decoding again", count, files.source)
    return count > 0
