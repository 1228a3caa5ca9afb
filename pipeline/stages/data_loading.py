"""Loads the dataset that parameters describe, and resolves what depends on it: classes, preprocessing, batch size."""

from __future__ import annotations

import logging
import shlex
from functools import partial
from typing import TypeVar

from pipeline.data.classes import Classes, default_base_classes, select_classes
from pipeline.data.normalization import resolve_preprocessing, with_preprocessing
from pipeline.data.preprocessing import Geometry, GeometryRequest
from pipeline.data.records import Dataset, DatasetSummary
from pipeline.data.sources.registry import describe_dataset, load_dataset
from pipeline.data.splits import Split, check_batch_size, split_for_base
from pipeline.errors import Fault, UserInputError
from pipeline.networks.from_params import with_convolutions
from pipeline.params import DataParams, TrainBaseParams
from pipeline.training.batch_size import default_batch_size, log_default_batch_size

logger = logging.getLogger(__name__)

B = TypeVar("B", bound=TrainBaseParams)


def load_data(params: DataParams, *, dataset: str = "", geometry: Geometry | None = None) -> Dataset:
    """Load a dataset.

    Args:
        params: What the user requested.
        dataset: Its name, if not the parameter's.
        geometry: That of a base; by default the requested one.

    Raises:
        DataFileError: Files are missing, damaged or unreadable.
    """
    return load_dataset(
        dataset or params.dataset,
        params.data_dir,
        geometry=geometry or geometry_request(params),
        data_dir_is_chosen=params.data_dir_is_chosen,
        skip_unreadable=params.skip_unreadable,
        verify=params.verify,
    )


def geometry_request(params: DataParams) -> GeometryRequest:
    """Return the requested geometry; `auto` is left to the dataset."""
    size = int(params.image_size) if params.image_size.isdecimal() else params.image_size
    channels = "auto" if params.channels == "auto" else int(params.channels)
    return GeometryRequest(image_size=size, channels=channels, resize=params.resize)  # type: ignore[arg-type]


def describe_data(params: DataParams, *, exactly: bool = False) -> DatasetSummary:
    """Return name, classes and counts of the dataset; images are decoded only if counts have to be exact."""
    describe = partial(
        describe_dataset,
        params.dataset,
        params.data_dir,
        geometry=geometry_request(params),
        data_dir_is_chosen=params.data_dir_is_chosen,
    )
    summary = describe()
    if exactly and not summary.exact:
        load_data(params)
        summary = describe()
    return summary


def load_split(params: TrainBaseParams) -> Split:
    """Load the data of a base, and split the images of its classes.

    Raises:
        UserInputError: The dataset lacks a class, or a class has too few images.
    """
    dataset = load_data(params)
    split = split_for_base(dataset, base_classes(params, dataset), val_fraction=params.val_fraction, seed=params.seed)
    logger.info(f"data: {split.note}")
    return split


def base_classes(params: TrainBaseParams, dataset: Dataset | DatasetSummary) -> Classes:
    """Return the numbers of a base's classes in its dataset.

    Raises:
        UserInputError: The dataset lacks one, or has fewer than two classes.
    """
    if params.classes != "auto":
        return select_classes(params.classes, dataset.class_names, dataset.name)
    classes = default_base_classes(params.family, dataset.class_names)
    if len(classes) < 2:
        what = f"has {len(classes)} class; a classifier needs at least two."
        raise UserInputError(Fault("dataset", dataset.name, what, "Give one sub-folder of images per class."))
    return classes


def resolve_base(params: B, split: Split) -> B:
    """Return parameters of a base as they are logged: classes, preprocessing, convolutions, and a batch that fits.

    Raises:
        UserInputError: The batch is larger than the training data, or `mean` or `std` has a wrong number of values.
    """
    preprocessing = resolve_preprocessing(params, split.geometry, split.train)
    params = with_convolutions(with_preprocessing(params, preprocessing), split.image_shape)
    resolved: dict[str, object] = {"dataset": split.dataset, "classes": split.classes_text}
    if "batch_size" not in params.model_fields_set:
        resolved["batch_size"] = default_batch_size(params.batch_size, len(split.train))
        log_default_batch_size(params.batch_size, len(split.train))
    params = params.model_copy(update=resolved)
    check_batch_size(split, params.batch_size)
    return params


def data_options(params: DataParams) -> str:
    """Return the options, with a leading space, that a command on the same data needs beside a base's URI."""
    defaults = DataParams()
    names = ("data_dir", "skip_unreadable")
    given = [(name, getattr(params, name)) for name in names if getattr(params, name) != getattr(defaults, name)]
    return "".join(f" --{name} {shlex.quote(str(value).lower() if value is True else value)}" for name, value in given)
