"""Load image files: from their store if they have been decoded before, else decode them."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from filelock import AcquireReturnProxy, FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.decode import FileChangedError, UnreadableImageError, decode, read_bytes
from pipeline.data.folder_listing import shown
from pipeline.data.preprocessing import Geometry, GeometryRequest
from pipeline.data.store.decoding import Assumption, Decoded, NativeGeometryError, decode_files
from pipeline.data.store.files import RECORD, ImageFiles, Records
from pipeline.data.store.image_store import PARTIAL, StoreKey, finish_store, images_folder, open_store, source_lock
from pipeline.data.store.manifest import Manifest, read_manifest, write_manifest
from pipeline.errors import DataFileError, Fault

logger = logging.getLogger(__name__)

SAMPLED_FILES = 32  # decoded to guess what all files have in common
FAULTS_SHOWN = 10


@dataclass(frozen=True)
class Order:
    """Which files make up the data set, and in which order: split by split.

    Attributes:
        rows: int64 (M,), rows among the files; a file may be left out.
        lengths: Number of rows of each split.
        notes: What the user should know about them.
    """

    rows: NDArray[np.int64]
    lengths: dict[str, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadRequest:
    """How to load.

    Attributes:
        geometry: Of the images, or what the user requested.
        skip_unreadable: Whether to leave out files that cannot be decoded; otherwise they are an error.
        verify: Whether to hash all files and check all pixels again.
    """

    geometry: Geometry | GeometryRequest
    skip_unreadable: bool = False
    verify: bool = False


@dataclass(frozen=True)
class StoredImages:
    """Decoded images of some files.

    Attributes:
        pixels: uint8 (M, C, H, W) in the order of `order`, in memory or memory-mapped.
        records: Of all files.
        order: Which file each image comes from.
        geometry: Of the images.
        unreadable: Names of the files that were skipped.
    """

    pixels: Tensor
    records: Records
    order: Order
    geometry: Geometry
    unreadable: list[str]


Arrange = Callable[[Records], Order]  # gets one record per file, `done` where it was decoded


def load_images(files: ImageFiles, request: LoadRequest, arrange: Arrange) -> StoredImages:
    """Return decoded images, from their store if possible.

    Args:
        files: To load.
        request: How to load them.
        arrange: Chooses and orders the files; depends on their records only.

    Raises:
        DataFileError: Files cannot be read, or change while they are read.
        DiskFullError: The store does not fit on the disk.
    """
    loaded = _from_store(files, request, arrange)
    if loaded is not None:
        return loaded
    lock = source_lock(files.source_key)
    with _acquired(lock, files.source):
        loaded = _from_store(files, request, arrange)
        return loaded if loaded is not None else _decode(files, request, arrange)


def _acquired(lock: FileLock, source: str) -> AcquireReturnProxy[FileLock]:
    """Return the acquired lock, to be released by a `with` statement."""
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process that decodes the images of %s", source)
        return lock.acquire()


def _from_store(files: ImageFiles, request: LoadRequest, arrange: Arrange) -> StoredImages | None:
    manifest = read_manifest(images_folder(), files, verify=request.verify)
    if manifest is None:
        return None
    _check_unreadable(files, manifest.unreadable, request)
    return _opened(files, manifest, request, arrange)


def _opened(files: ImageFiles, manifest: Manifest, request: LoadRequest, arrange: Arrange) -> StoredImages | None:
    geometry = resolved_geometry(request.geometry, manifest.records)
    order = arrange(manifest.records)
    pixels = open_store(StoreKey(manifest.records[order.rows], geometry), verify=request.verify)
    if pixels is None:
        return None
    skipped = [files.names[row] for row in sorted(manifest.unreadable)]
    return StoredImages(pixels, manifest.records, order, geometry, skipped)


def _decode(files: ImageFiles, request: LoadRequest, arrange: Arrange) -> StoredImages:
    decoded, geometry = _decode_in_geometry(files, request.geometry)
    _check_unreadable(files, decoded.unreadable, request)
    order = arrange(decoded.records)
    finish_store(decoded.folder, StoreKey(decoded.records[order.rows], geometry), order.rows)
    manifest = Manifest(decoded.records, decoded.unreadable)
    write_manifest(images_folder(), files, manifest)
    opened = _opened(files, manifest, request, arrange)
    assert opened is not None, "a store that was just written can be opened"
    return opened


def _decode_in_geometry(files: ImageFiles, request: Geometry | GeometryRequest) -> tuple[Decoded, Geometry]:
    """Decode in the requested geometry; what it depends on is guessed from a sample, and corrected if that is wrong."""
    common = Assumption() if isinstance(request, Geometry) else _sampled(files)
    while True:
        geometry = _resolved(request, common)
        folder = images_folder() / f"{PARTIAL}{files.source_key}-{geometry.digest[:8]}"
        try:
            decoded = decode_files(files, geometry, folder, _relevant(common, request))
        except NativeGeometryError as error:
            found = _common(error.records)
            size = common.native_size if common.native_size == found.native_size else None
            common = Assumption(size, bool(common.grey and found.grey))
        else:
            if resolved_geometry(request, decoded.records) == geometry:
                return decoded, geometry
            common = _common(decoded.records[decoded.records["done"] == 1])
        shutil.rmtree(folder)


def look_ahead(files: ImageFiles, request: LoadRequest) -> tuple[Records | None, Geometry]:
    """Return the records of files that have been decoded before, and the geometry that loading would try first."""
    manifest = read_manifest(images_folder(), files, verify=False)
    if manifest is not None:
        return manifest.records, resolved_geometry(request.geometry, manifest.records)
    return None, _resolved(request.geometry, _sampled(files))


def resolved_geometry(request: Geometry | GeometryRequest, records: Records) -> Geometry:
    """Return the geometry of a source whose files are known."""
    return _resolved(request, _common(records[records["done"] == 1]))


def _resolved(request: Geometry | GeometryRequest, common: Assumption) -> Geometry:
    if isinstance(request, Geometry):
        return request
    return request.resolve(common.native_size, grey=bool(common.grey))


def _relevant(common: Assumption, request: Geometry | GeometryRequest) -> Assumption:
    """Return the part of an assumption that the geometry was resolved from."""
    if isinstance(request, Geometry):
        return Assumption()
    return Assumption(
        common.native_size if request.image_size == "auto" else None,
        common.grey if request.channels == "auto" else None,
    )


def _common(records: Records) -> Assumption:
    """Return the size that all images have, if they have one, and whether all are grey."""
    sizes = np.unique(np.stack((records["height"], records["width"]), axis=1), axis=0).tolist()
    return Assumption((sizes[0][0], sizes[0][1]) if len(sizes) == 1 else None, bool((records["grey"] == 1).all()))


def _sampled(files: ImageFiles) -> Assumption:
    """Return what some files, spread over all, have in common."""
    records = np.zeros(SAMPLED_FILES, RECORD)
    for row in np.linspace(0, len(files) - 1, SAMPLED_FILES).astype(int).tolist():
        with contextlib.suppress(OSError, UnreadableImageError, FileChangedError):  # reported when all are decoded
            height, width, channels = decode(read_bytes(files.root / files.names[row])).shape
            records[np.count_nonzero(records["done"])] = (True, channels == 1, height, width, 0, 0, b"")
    return _common(records[records["done"] == 1])


def _check_unreadable(files: ImageFiles, unreadable: dict[int, str], request: LoadRequest) -> None:
    """Reject files that cannot be decoded, unless they are to be skipped.

    Raises:
        DataFileError: Names the first ones.
    """
    if not unreadable or request.skip_unreadable:
        return
    remedy = "Repair or remove it, or set skip_unreadable=true."
    faults = [
        Fault("dataset", shown([str(files.root / files.names[row])]), f"cannot be read as an image: {why}.", remedy)
        for row, why in sorted(unreadable.items())[:FAULTS_SHOWN]
    ]
    if len(unreadable) > FAULTS_SHOWN:
        more = f"{len(unreadable) - FAULTS_SHOWN} more files cannot be read as images."
        faults.append(Fault("dataset", files.source, more, "Repair or remove them, or set skip_unreadable=true."))
    raise DataFileError(*faults)
