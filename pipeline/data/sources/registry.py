"""Load a dataset by name. Every module of this package that defines `SOURCE` is registered.

Every source returns uint8 images (N, C, H, W), int64 labels (N,) and a test split, official or sampled by content.
"""

import importlib
import os
import pkgutil
from dataclasses import replace
from functools import cache
from pathlib import Path

from pipeline.data.preprocessing import Geometry, GeometryRequest
from pipeline.data.records import Dataset, DatasetSummary
from pipeline.data.sources.mnist_family import FAMILY, download_obstacle
from pipeline.data.sources.source import Source, SourceRequest
from pipeline.data.store.loading import LoadRequest
from pipeline.errors import Fault, UserInputError

AUTO = "auto"
NO_REQUEST = GeometryRequest()


def load_dataset(
    name: str,
    data_dir: str,
    *,
    geometry: Geometry | GeometryRequest = NO_REQUEST,
    data_dir_is_chosen: bool = False,
    skip_unreadable: bool = False,
    verify: bool = False,
) -> Dataset:
    """Load a dataset; download it if it is missing, and decode its images unless they are cached.

    Args:
        name: A valid value of the parameter `dataset`.
        data_dir: Folder of the datasets, in torchvision's layout.
        geometry: Geometry of the images (of a base, for example), or what the user requested.
        data_dir_is_chosen: Whether the user set `data_dir`; `auto` then fails if it is not accessible.
        skip_unreadable: Whether to skip files that cannot be decoded; by default they are an error.
        verify: Whether to hash all files again; by default a file with the same path, size and mtime is unchanged.

    Raises:
        DataFileError: Files are missing and cannot be downloaded, or are truncated, altered or unreadable.
        DiskFullError: The decoded images do not fit on the disk.
    """
    request = SourceRequest(name, data_dir, LoadRequest(geometry, skip_unreadable, verify))
    if name != AUTO:
        return find_source(name).load(request)
    request, note = _resolve_auto(request, data_dir_is_chosen=data_dir_is_chosen)
    dataset = find_source(request.name).load(request)
    return replace(dataset, note=note) if note else dataset


def describe_dataset(
    name: str,
    data_dir: str,
    *,
    geometry: Geometry | GeometryRequest = NO_REQUEST,
    data_dir_is_chosen: bool = False,
) -> DatasetSummary:
    """Return classes, counts and geometry of a dataset without decoding image files.

    Raises:
        DataFileError: Files are missing and cannot be downloaded, or the dataset has too few classes or images.
    """
    request = SourceRequest(name, data_dir, LoadRequest(geometry))
    if name == AUTO:
        request, _ = _resolve_auto(request, data_dir_is_chosen=data_dir_is_chosen)
    return find_source(request.name).describe(request)


def find_source(name: str) -> Source:
    """Return the source of a dataset.

    Raises:
        UserInputError: No source has a dataset of that name.
    """
    for source in _sources():
        if source.serves(name):
            return source
    prefixes = [f"{source.prefix}..." for source in _sources() if source.prefix]
    known = ", ".join([*(name for source in _sources() for name in source.names), *prefixes])
    raise UserInputError(Fault("dataset", name, f"is not one of {known}.", "Choose one of these."))


@cache
def _sources() -> tuple[Source, ...]:
    package = importlib.import_module("pipeline.data.sources")
    names = sorted(
        module.name for module in pkgutil.iter_modules(package.__path__) if module.name != Path(__file__).stem
    )
    modules = [importlib.import_module(f"pipeline.data.sources.{name}") for name in names]
    return tuple(module.SOURCE for module in modules if hasattr(module, "SOURCE"))


def _resolve_auto(request: SourceRequest, *, data_dir_is_chosen: bool) -> tuple[SourceRequest, str]:
    """Choose MNIST if it is on disk or can be downloaded, else scikit-learn's digits; return the reason as a note."""
    mnist, data_dir = FAMILY["mnist"], request.data_dir
    present = len(mnist.missing(data_dir)) < len(mnist.files)
    blocked = data_dir_is_chosen and not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK)
    obstacle = (
        "" if present or blocked else download_obstacle("mnist", data_dir)
    )  # if blocked, loading fails with the reason
    if not obstacle:
        return replace(request, name="mnist"), ""
    note = (
        f"MNIST not found in {mnist.raw_folder(data_dir)} and {obstacle}. Using scikit-learn's digits instead "
        "(1,797 images, upsampled from 8x8 to 28x28). Results are not comparable with MNIST"
    )
    return replace(request, name="digits"), note
