"""What `import_base` registers: a network with its weights, preprocessing, class names, license and labelled images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.data.examples import Examples, select_examples
from pipeline.data.normalization import parse_channel_values, resolve_preprocessing, with_preprocessing
from pipeline.data.preprocessing import Geometry, Preprocessing, parse_image_size
from pipeline.data.records import Dataset
from pipeline.data.splits import Split
from pipeline.errors import invalid, suggest
from pipeline.networks.graph.network import GraphNetwork
from pipeline.networks.origins.load import LoadedModel, ModelRequest, load_model, model_source
from pipeline.networks.origins.source import ModelSource
from pipeline.params import ImportBaseParams
from pipeline.params.data import NO_DATASET, format_class_names, is_numeric, parse_class_list, parse_classes
from pipeline.redaction import first_line
from pipeline.runtime import generator
from pipeline.stages.data_loading import load_data

logger = logging.getLogger(__name__)

MAX_LICENSE_BYTES = 1 << 20
MAX_LISTED = 10  # class names in an error message


@dataclass(frozen=True)
class ImportedNetwork:
    """What is registered.

    Attributes:
        loaded: The network, with the report of its weights.
        split: Labelled images of its classes, all of them for testing; None without a dataset.
        license: Text of the license of its weights; empty if unknown.
    """

    loaded: LoadedModel
    split: Split | None
    license: str

    @property
    def network(self) -> GraphNetwork:
        """The network."""
        return self.loaded.network

    @property
    def classes_text(self) -> str:
        """Its classes as a class list."""
        classes = self.network.architecture.classes
        return format_class_names(classes, tuple(range(len(classes))))


def load_imported(params: ImportBaseParams) -> ImportedNetwork:
    """Load network, weights, license and labelled images.

    Raises:
        UserInputError: One of them is invalid, or the images have a class that the network does not have.
    """
    license_text = read_license(params.license)
    source = model_source(params.model)
    geometry = requested_geometry(params, source.preprocessing)
    dataset = None if params.dataset == NO_DATASET else load_data(params, geometry=geometry)
    request = ModelRequest(
        model=params.model,
        weights=params.weights,
        classes=output_names(params, source, dataset),
        preprocessing=imported_preprocessing(params, source.preprocessing, geometry, dataset=dataset),
        blocks=() if params.blocks == "auto" else tuple(params.blocks.split(",")),
    )
    loaded = load_model(request, generator(params.seed, "weights"), source=source)
    split = None if dataset is None else labelled_images(dataset, loaded.network.architecture.classes)
    return ImportedNetwork(loaded, split, license_text or source.license)


def read_license(path: str) -> str:
    """Return the text of a license file; empty without a path.

    Raises:
        UserInputError: It is missing, too large, or not text.
    """
    if not path:
        return ""
    try:
        if Path(path).stat().st_size > MAX_LICENSE_BYTES:
            raise ValueError(f"more than {MAX_LICENSE_BYTES} bytes")
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise invalid("license", path, f"cannot be read: {first_line(error)}.", remedy="Give a text file.") from None


def requested_geometry(params: ImportBaseParams, published: Preprocessing | None) -> Geometry | None:
    """Return the published geometry with the user's changes; None leaves it to the dataset.

    Raises:
        UserInputError: There is no published preprocessing, no `image_size` and no dataset.
    """
    if published is None and params.image_size == "auto":
        if params.dataset == NO_DATASET:
            what = f"{params.model} has no published preprocessing."
            raise invalid("image_size", None, what, remedy="Give image_size, or a dataset of its own classes.")
        return None
    size = parse_image_size(params.image_size)
    changes: dict[str, object] = {} if size is None else {"size": size}
    changes |= {"channels": int(params.channels)} if params.channels != "auto" else {}
    changes |= {"resize": params.resize} if params.resize != "auto" else {}
    start = published.geometry.model_dump() if published else {"channels": 3}
    return Geometry.model_validate({**start, **changes})


def imported_preprocessing(
    params: ImportBaseParams, published: Preprocessing | None, geometry: Geometry | None, *, dataset: Dataset | None
) -> Preprocessing:
    """Return the preprocessing: `mean` and `std` as given, else as published, else measured on the dataset.

    Raises:
        UserInputError: They have a wrong number of values, or are to be measured without a dataset.
    """
    if published is not None:
        spelled = with_preprocessing(params, published)
        params = params.model_copy(
            update={name: getattr(spelled, name) for name in ("mean", "std") if getattr(params, name) == "auto"}
        )
    if dataset is not None:
        if "auto" in (params.mean, params.std):
            logger.warning(
                f"mean and std are measured on {dataset.name}; give those that {params.model} was trained with"
            )
        return resolve_preprocessing(params, dataset.geometry, all_images(dataset, test=False))
    assert geometry is not None, "without a dataset, the geometry is known"
    values: dict[str, object] = {}
    for name in ("mean", "std"):
        word = getattr(params, name)
        if word == "measured":
            raise invalid(name, word, "there is no dataset to measure it on.", remedy="Give dataset, or the values.")
        values[name] = None if word in ("auto", "none") else parse_channel_values(params, name, geometry)
    if "auto" in (params.mean, params.std):
        logger.warning(f"pixels are only divided by 255; give the mean and std that {params.model} was trained with")
    return Preprocessing.model_validate(geometry.model_dump() | values)


def output_names(params: ImportBaseParams, source: ModelSource, dataset: Dataset | None) -> tuple[str, ...] | None:
    """Return the names of the outputs: as given, as published, or those of the dataset; None for numbers."""
    if params.classes != "auto":
        items = parse_class_list(params.classes)
        return tuple(map(str, parse_classes(params.classes))) if is_numeric(items) else items
    if params.weights == "default" and source.categories:
        return without_duplicates(source.categories)
    return dataset.class_names if dataset is not None else None


def without_duplicates(published: Sequence[str]) -> tuple[str, ...]:
    """Return published class names, a number added to those that occur before: ImageNet has two cranes.

    >>> without_duplicates(["crane", "bee", "crane"])
    ('crane', 'bee', 'crane 2')
    """
    unique: list[str] = []
    for name in published:
        unique.append(name if name not in unique else f"{name} {unique.count(name) + 1}")
    return tuple(unique)


def all_images(dataset: Dataset, *, test: bool) -> Examples:
    """Return the training images, or the test images, of all classes."""
    return select_examples(dataset.test if test else dataset.train, tuple(range(len(dataset.class_names))), dataset)


def labelled_images(dataset: Dataset, classes: tuple[str, ...]) -> Split:
    """Return the test images with the number of the output of their class as label; nothing is trained.

    Raises:
        UserInputError: The dataset has a class that the network does not have.
    """
    outputs = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in dataset.class_names if name not in outputs]
    if unknown:
        listed = ", ".join(classes[:MAX_LISTED]) + (" ..." if len(classes) > MAX_LISTED else "")
        what = f"has the class {unknown[0]}, and the network has {listed}."
        remedy = suggest(unknown[0], classes) or "Give classes: the names of the outputs, in order."
        raise invalid("dataset", dataset.name, what, remedy=remedy)
    images = all_images(dataset, test=True)
    labels = torch.tensor([outputs[name] for name in dataset.class_names])[images.labels]
    test = Examples(images.images, images.rows, labels)
    nothing = test.take(torch.zeros(0, dtype=torch.int64))
    return Split(
        dataset=dataset.name,
        source=dataset.source,
        note=dataset.note,
        classes=tuple(range(len(classes))),
        class_names=classes,
        all_class_names=dataset.class_names,
        geometry=dataset.geometry,
        train=nothing,
        validation=nothing,
        test=test,
    )
