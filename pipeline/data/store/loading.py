"""Load image files: from their store if they are cached, else decode them."""

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
from pipeline.data.preprocessing import Geometry, GeometryRequest
from pipeline.data.store.decoding import Assumption, Decoded, NativeGeometryError, decode_files
from pipeline.data.store.files import RECORD, ImageFiles, Records
from pipeline.data.store.image_store import (
    PARTIAL,
    StoreKey,
    finish_store,
    images_folder,
    open_store,
    source_lock,
)
from pipeline.data.store.manifest import Manifest, read_manifest, write_manifest
from pipeline.errors import DataFileError, Fault, abbreviate

logger = logging.getLogger(__name__)

SAMPLED_FILES = 32  # decoded to guess the common size and channels of all files
FAULTS_SHOWN = 10


@dataclass(frozen=True)
class Order:
    """The files of a dataset, ordered by split.

    Attributes:
        rows: int64 (M,), indices of the files; some may be left out.
        lengths: Number of files per split.
        notes: Warnings for the user.
    """

    rows: NDArray[np.int64]
    lengths: dict[str, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadRequest:
    """Options for loading image files.

    Attributes:
        geometry: Geometry of the images, or what the user requested.
        skip_unreadable: Whether to skip files that cannot be decoded; by default they are an error.
        verify: Whether to hash all files again and verify all checksums.
    """

    geometry: Geometry | GeometryRequest
    skip_unreadable: bool = False
    verify: bool = False


@dataclass(frozen=True)
class StoredImages:
    """Decoded images of some files.

    Attributes:
        pixels: uint8 (N, C, H, W), one row per file, in memory or memory-mapped; `order` selects the rows to use.
        records: Records of all files.
        order: The row of each image.
        geometry: Geometry of the images.
        unreadable: Names of the files that were skipped.
    """

    pixels: Tensor
    records: Records
    order: Order
    geometry: Geometry
    unreadable: list[str]


Arrange = Callable[[Records], Order]  # called with one record per file; `done` is set for decoded files


def load_images(files: ImageFiles, request: LoadRequest, arrange: Arrange) -> StoredImages:
    """Return decoded images, from their store if possible.

    Args:
        files: Files to load.
        request: Options for loading.
        arrange: Selects and orders the files, based on their records only.

    Raises:
        DataFileError: Files cannot be read, or change while they are read.
        DiskFullError: The store does not fit on the disk.
    """
    loaded = _from_store(files, request, arrange)
    if loaded is not None:
        return loaded
    lock = source_lock(files.source_key)
    with _acquire(lock, files.source):
        loaded = _from_store(files, request, arrange)
        return loaded if loaded is not None else _decode(files, request, arrange)


def _acquire(lock: FileLock, source: str) -> AcquireReturnProxy[FileLock]:
    """Return the acquired lock, to be released by a `with` statement."""
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process to decode the images of %s", source)
        return lock.acquire()


def _from_store(files: ImageFiles, request: LoadRequest, arrange: Arrange) -> StoredImages | None:
    manifest = read_manifest(images_folder(), files, verify=request.verify)
    if manifest is None:
        return None
    _check_unreadable(files, manifest.unreadable, request)
    return _open(files, manifest, request, arrange=arrange)


def _open(files: ImageFiles, manifest: Manifest, request: LoadRequest, *, arrange: Arrange) -> StoredImages | None:
    geometry = resolved_geometry(request.geometry, manifest.records)
    order = arrange(manifest.records)
    pixels = open_store(StoreKey(manifest.records, geometry), verify=request.verify)
    if pixels is None:
        return None
    return StoredImages(pixels, manifest.records, order, geometry, _skipped(files, manifest))


def _skipped(files: ImageFiles, manifest: Manifest) -> list[str]:
    return [files.names[row] for row in sorted(manifest.unreadable)]


def _decode(files: ImageFiles, request: LoadRequest, arrange: Arrange) -> StoredImages:
    decoded, geometry = _decode_in_geometry(files, request.geometry)
    _check_unreadable(files, decoded.unreadable, request)
    order = arrange(decoded.records)
    pixels = finish_store(decoded.folder, StoreKey(decoded.records, geometry))
    manifest = Manifest(decoded.records, decoded.unreadable)
    write_manifest(images_folder(), files, manifest)
    return StoredImages(pixels, manifest.records, order, geometry, _skipped(files, manifest))


def _decode_in_geometry(files: ImageFiles, request: Geometry | GeometryRequest) -> tuple[Decoded, Geometry]:
    """Decode to the requested geometry; guess the native size and channels from a sample, and start over if wrong."""
    common = Assumption() if isinstance(request, Geometry) else _guess(files)
    while True:
        geometry = _resolved(request, common)
        folder = images_folder() / f"{PARTIAL}{files.source_key}-{geometry.digest[:8]}"
        try:
            decoded = decode_files(files, geometry, folder, assumption=_relevant(common, request))
        except NativeGeometryError as error:
            observed = _common_traits(error.records)
            size = common.native_size if common.native_size == observed.native_size else None
            common = Assumption(size, bool(common.gray and observed.gray))
        else:
            if resolved_geometry(request, decoded.records) == geometry:
                return decoded, geometry
            common = _common_traits(decoded.records[decoded.records["done"] == 1])
        shutil.rmtree(folder)


def peek(files: ImageFiles, request: LoadRequest) -> tuple[Records | None, Geometry]:
    """Return the records of the files if they are cached, and the geometry that loading would try first."""
    manifest = read_manifest(images_folder(), files, verify=False)
    if manifest is not None:
        return manifest.records, resolved_geometry(request.geometry, manifest.records)
    return None, _resolved(request.geometry, _guess(files))


def resolved_geometry(request: Geometry | GeometryRequest, records: Records) -> Geometry:
    """Return the geometry of a source, given the records of its files."""
    return _resolved(request, _common_traits(records[records["done"] == 1]))


def _resolved(request: Geometry | GeometryRequest, common: Assumption) -> Geometry:
    return request.resolve(common.native_size, gray=bool(common.gray))


def _relevant(common: Assumption, request: Geometry | GeometryRequest) -> Assumption:
    """Return the part of an assumption that the geometry depends on."""
    if isinstance(request, Geometry):
        return Assumption()
    return Assumption(
        common.native_size if request.image_size == "auto" else None,
        common.gray if request.channels == "auto" else None,
    )


def _common_traits(records: Records) -> Assumption:
    """Return the common size of all images (None if they differ), and whether all are gray."""
    sizes = np.unique(np.stack((records["height"], records["width"]), axis=1), axis=0).tolist()
    return Assumption((sizes[0][0], sizes[0][1]) if len(sizes) == 1 else None, bool((records["gray"] == 1).all()))


def _guess(files: ImageFiles) -> Assumption:
    """Return the common size and channels of a sample of evenly spaced files."""
    records = np.zeros(SAMPLED_FILES, RECORD)
    for row in np.linspace(0, len(files) - 1, SAMPLED_FILES).astype(int).tolist():
        with contextlib.suppress(
            OSError, UnreadableImageError, FileChangedError
        ):  # reported later, when all files are decoded
            height, width, channels = decode(read_bytes(files.root / files.names[row])).shape
            records[np.count_nonzero(records["done"])] = (True, channels == 1, height, width, 0, 0, b"")
    return _common_traits(records[records["done"] == 1])


def _check_unreadable(files: ImageFiles, unreadable: dict[int, str], request: LoadRequest) -> None:
    """Reject files that cannot be decoded, unless they are to be skipped.

    Raises:
        DataFileError: There are such files; the message lists the first.
    """
    if not unreadable or request.skip_unreadable:
        return
    remedy = "Repair or remove it, or set skip_unreadable=true."
    faults = [
        Fault(
            "dataset",
            abbreviate([str(files.root / files.names[row])], 1),
            f"cannot be read as an image: {why}.",
            remedy,
        )
        for row, why in sorted(unreadable.items())[:FAULTS_SHOWN]
    ]
    if len(unreadable) > FAULTS_SHOWN:
        more = f"{len(unreadable) - FAULTS_SHOWN} more files cannot be read as images."
        faults.append(Fault("dataset", files.source, more, "Repair or remove them, or set skip_unreadable=true."))
    raise DataFileError(*faults)
