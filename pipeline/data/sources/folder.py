"""A folder with one sub-folder of images per class."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.data.identity import content_ids
from pipeline.data.idx import SIDE
from pipeline.data.image_file import read_image
from pipeline.data.preprocessing import Geometry, GeometryRequest
from pipeline.data.records import Dataset, Images
from pipeline.data.stratified import cut_test
from pipeline.data.torchvision_import import torchvision_datasets
from pipeline.errors import DataFileError, Fault
from pipeline.params import FOLDER_PREFIX

MIN_IMAGES_PER_CLASS = 3  # one each for training, validation and test


def load_folder(name: str, geometry: Geometry | GeometryRequest) -> Dataset:
    """Return the images of `folder:PATH`, resized.

    Raises:
        DataFileError: The folder does not exist, a class has too few images, or an image cannot be read.
    """
    path = Path(name.removeprefix(FOLDER_PREFIX)).expanduser()
    if not path.is_dir():
        raise _invalid(name, f"{path} is not a folder.", "Give folder:PATH with one sub-folder per class.")
    try:
        listing = torchvision_datasets().ImageFolder(str(path))
    except FileNotFoundError as error:
        remedy = "Add images or remove the empty sub-folder."
        raise _invalid(name, f"must hold one sub-folder of images per class: {error}.", remedy) from None
    labels = torch.tensor([label for _, label in listing.samples])
    counts = torch.bincount(labels).tolist()
    small = [name for name, count in zip(listing.classes, counts, strict=True) if count < MIN_IMAGES_PER_CLASS]
    if small:
        needed = f"a class needs at least {MIN_IMAGES_PER_CLASS} images (train, validation, test)"
        raise _invalid(name, f"{needed}; too few in {', '.join(small)}.", "Add images.")
    if isinstance(geometry, GeometryRequest):
        side = SIDE if geometry.image_size == "auto" else int(geometry.image_size)
        geometry = Geometry(size=(side, side), channels=3 if geometry.channels == 3 else 1)
    pixels = torch.stack([read_image(Path(file), geometry) for file, _ in listing.samples])
    train, test = cut_test(Images(pixels, labels, content_ids(pixels)))
    note = f"{len(pixels)} images in {path}, resized to {geometry.size}"
    return Dataset(name, train, test, tuple(listing.classes), str(path.absolute()), note, geometry)


def _invalid(name: str, allowed: str, remedy: str) -> DataFileError:
    return DataFileError(Fault("dataset", name, allowed, remedy))
