"""Datasets that are loaded as arrays: resize and summarize them."""

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipeline.data.decode import Pixels, resize
from pipeline.data.preprocessing import Geometry
from pipeline.data.records import Dataset, DatasetSummary, Images
from pipeline.data.sources.source import SourceRequest
from pipeline.data.store.files import RECORD, source_key
from pipeline.data.store.image_store import StoreKey, open_store, source_lock, store_array

STORED_BYTES = 32 << 20  # smaller results are not stored: every process resizes again
PART_ROWS = 1024
THREADS = 4  # Pillow releases the GIL while resizing


def resize_dataset(dataset: Dataset, request: SourceRequest) -> Dataset:
    """Resize the images to the requested geometry; images that already match are unchanged.

    Raises:
        DiskFullError: The resized images are to be stored, and do not fit on the disk.
    """
    native, geometry = dataset.geometry, _resolved(dataset, request)
    cropped = geometry.resize == "fit" and geometry.crop_ratio < 1
    if geometry.image_shape == native.image_shape and not cropped:
        return replace(dataset, geometry=geometry)
    splits = [images for images in (dataset.train, dataset.validation, dataset.test) if images is not None]
    pixels = _resized(dataset.name, splits, geometry, verify=request.load.verify)
    parts = iter(torch.split(pixels, [len(images) for images in splits]))
    train = replace(dataset.train, pixels=next(parts))
    validation = replace(dataset.validation, pixels=next(parts)) if dataset.validation is not None else None
    test = replace(dataset.test, pixels=next(parts))
    height, width = geometry.size
    note = f"{dataset.note}; resized to {height}x{width}, {'gray' if geometry.channels == 1 else 'RGB'}"
    return replace(dataset, train=train, validation=validation, test=test, geometry=geometry, note=note)


def _resolved(dataset: Dataset, request: SourceRequest) -> Geometry:
    return request.geometry.resolve(dataset.geometry.size, gray=dataset.geometry.channels == 1)


def _resized(name: str, splits: list[Images], geometry: Geometry, *, verify: bool) -> Tensor:
    """Return the resized images of all splits, concatenated, uint8 (N, C, H, W); large results are stored on disk."""
    records = np.zeros(sum(len(images) for images in splits), RECORD)
    records["id"] = torch.cat([images.ids for images in splits]).numpy()
    records["digest"] = np.stack((records["id"], records["id"]), axis=1).view("V16")[:, 0]
    key = StoreKey(records, geometry)
    if len(records) * key.row_bytes <= STORED_BYTES:
        return torch.from_numpy(np.concatenate(list(_resized_parts(splits, key))))
    with source_lock(source_key(name)):
        pixels = open_store(key, verify=verify)
        if pixels is None:
            pixels = store_array(name, _resized_parts(splits, key), key)
    return pixels


def _resized_parts(splits: list[Images], key: StoreKey) -> Iterator[Pixels]:
    """Yield resized images uint8 (n, C, H, W), and fill in their records."""
    row = 0
    with ThreadPoolExecutor(THREADS) as threads:
        for images in splits:
            for part in images.pixels.split(PART_ROWS):
                originals = part.permute(0, 2, 3, 1).contiguous().numpy()
                resized = np.stack(list(threads.map(lambda image: resize(image, key.geometry), originals)))
                records = key.records[row : row + len(resized)]
                records["done"], records["crc"] = 1, [zlib.crc32(image) for image in resized]
                row += len(resized)
                yield resized


def summarize(dataset: Dataset, request: SourceRequest) -> DatasetSummary:
    """Return the summary of a dataset in its native geometry, with the geometry that loading would resize it to."""

    def counts(images: Images) -> tuple[int, ...]:
        return tuple(torch.bincount(images.labels, minlength=len(dataset.class_names)).tolist())

    return DatasetSummary(
        dataset.name,
        dataset.class_names,
        counts(dataset.train),
        counts(dataset.validation) if dataset.validation is not None else None,
        counts(dataset.test),
        official_splits=dataset.name != "digits",
        geometry=_resolved(dataset, request),
    )
