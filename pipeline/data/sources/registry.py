"""Load a data set by name.

Every source returns uint8 images (N, C, H, W), int64 labels (N,) and a test split that is official or cut once
with a fixed seed. Files are validated before anything trains on them.
"""

from __future__ import annotations

import os

import torch

from pipeline.data.preprocessing import Geometry, GeometryRequest
from pipeline.data.records import Dataset, DatasetSummary, Images
from pipeline.data.sources.digits import load_digits
from pipeline.data.sources.folder import load_folder
from pipeline.data.sources.mnist_family import FAMILY, download_obstacle, load_family
from pipeline.params import FOLDER_PREFIX

AS_IT_IS = GeometryRequest()


def load_dataset(
    name: str,
    data_dir: str,
    *,
    geometry: Geometry | GeometryRequest = AS_IT_IS,
    data_dir_is_chosen: bool = False,
    skip_unreadable: bool = False,
    verify: bool = False,
) -> Dataset:
    """Return a data set in memory; download it first if it is not on disk.

    Args:
        name: A valid value of the parameter `dataset`.
        data_dir: Folder of the data sets, in torchvision's layout.
        geometry: Size, channels and resizing of the images.
        skip_unreadable: Leave out unreadable images.
        verify: Compare the content of files again.
        data_dir_is_chosen: Whether the user set that folder; `auto` then reports it if it is not accessible.

    Raises:
        DataFileError: Files are missing and cannot be downloaded, or are truncated, altered or unreadable.
    """
    if name == "auto":
        return _load_auto(data_dir, data_dir_is_chosen=data_dir_is_chosen)
    if name.startswith(FOLDER_PREFIX):
        return load_folder(name, geometry)
    return load_digits() if name == "digits" else load_family(name, data_dir)


def describe_dataset(
    name: str, data_dir: str, *, geometry: Geometry | GeometryRequest = AS_IT_IS, data_dir_is_chosen: bool = False
) -> DatasetSummary:
    """Return name, classes and counts of a data set."""
    dataset = load_dataset(name, data_dir, geometry=geometry, data_dir_is_chosen=data_dir_is_chosen)
    official = not dataset.name.startswith(FOLDER_PREFIX) and dataset.name != "digits"
    train, test = (_counts(images, dataset) for images in (dataset.train, dataset.test))
    validation = _counts(dataset.validation, dataset) if dataset.validation else None
    return DatasetSummary(dataset.name, dataset.class_names, train, validation, test, official, dataset.geometry)


def _counts(images: Images, dataset: Dataset) -> tuple[int, ...]:
    return tuple(torch.bincount(images.labels, minlength=len(dataset.class_names)).tolist())


def _load_auto(data_dir: str, *, data_dir_is_chosen: bool) -> Dataset:
    """Load MNIST if it is on disk or can be downloaded, else scikit-learn's digits; the note says why."""
    mnist = FAMILY["mnist"]
    if len(mnist.missing(data_dir)) < len(mnist.files):
        return load_family("mnist", data_dir)
    if data_dir_is_chosen and not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        return load_family("mnist", data_dir)  # rejected there, unless it can be downloaded
    obstacle = download_obstacle("mnist", data_dir)
    if not obstacle:
        return load_family("mnist", data_dir)
    return load_digits(
        f"MNIST not found in {mnist.raw_folder(data_dir)} and {obstacle}. Using scikit-learn's digits instead "
        "(1,797 images, upsampled from 8x8 to 28x28). Results are not comparable with MNIST"
    )
