"""The decoded files of a source. Later runs trust path, size and modification time unless asked to verify."""

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
    """Records of the files of a source.

    Attributes:
        records: One record per file.
        unreadable: Reasons why files could not be decoded, by row.
    """

    records: Records
    unreadable: dict[int, str]


def manifest_path(images: Path, files: ImageFiles) -> Path:
    """Return the path of a source's manifest."""
    return images / "manifests" / f"{files.source_key}.npz"


def read_manifest(images: Path, files: ImageFiles, *, verify: bool) -> Manifest | None:
    """Return the manifest of the files, or None if a file was added, removed or changed.

    Args:
        images: Folder of all stores.
        files: Current state of the files.
        verify: Also compare the digest of every file.
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
    """Write the manifest atomically.

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
    """Return whether a file that was unreadable can be decoded now, for example because its permissions changed."""
    try:
        decode(read_bytes(path))
    except (OSError, UnreadableImageError, FileChangedError):
        return False
    return True


def _files_differ(files: ImageFiles, manifest: Manifest) -> bool:
    """Hash all readable files again, and return whether any digest differs."""
    rows = [row for row in range(len(files)) if row not in manifest.unreadable]

    def differs(row: int) -> bool:
        content = read_bytes(os.path.join(files.root, files.names[row]))
        return byte_digest(content) != bytes(manifest.records["digest"][row])

    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        count = sum(threads.map(differs, rows, chunksize=256))
    if count:
        logger.warning("%d files of %s changed but kept their size and time: decoding again", count, files.source)
    return count > 0
