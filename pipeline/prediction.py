"""`python -m pipeline predict`: classify image files with a trained model, as a table and a CSV file.

The network is rebuilt from the model's files, as for a base; images get the preprocessing that is stored with it. A
served model (docs/serving.md) gives the same probabilities.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from pipeline.console import echo, print_table
from pipeline.data.decode import IMAGE_SUFFIXES, read_image, resize
from pipeline.data.preprocessing import Preprocessing
from pipeline.errors import Fault, UserInputError, invalid
from pipeline.networks.layered import Classifier, LayeredNetwork
from pipeline.trained_model import load_model_to_use
from pipeline.training.chunks import chunk_size

MAX_ROWS = 30  # of the printed table; the CSV file has all
MAX_REQUEST_IMAGES = 100


@dataclass(frozen=True)
class Prediction:
    """The classes of one image."""

    path: Path
    probabilities: tuple[float, ...]  # in the order of the model's classes

    @property
    def best(self) -> int:
        """Number of the most probable class."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)


def predict(
    model: str, images: Sequence[Path], *, output: Path, request: Path | None = None, code: str = ""
) -> list[Prediction]:
    """Classify images, print a table, and write a CSV file with the probability of every class.

    Args:
        model: Reference of a model of this project, in any form that `base` takes.
        images: Files and folders; of a folder, all image files in it and below.
        output: The CSV file.
        request: Write a request for the served model with these images to this file as well.
        code: The user's own code that builds the network, `own:PATH.py:FUNCTION`.

    Raises:
        UserInputError: The model cannot be loaded, or a path is not an image (all of them are reported).
    """
    paths = image_files(images)
    base = load_model_to_use(model, code)
    preprocessing = base.network.architecture.preprocessing
    if request is not None:
        write_request(request, paths, preprocessing)
    size = chunk_size(base.network, preprocessing.image_shape)
    predictions = [
        Prediction(path, tuple(probabilities))
        for chunk in _chunks(paths, size)
        for path, probabilities in zip(chunk, classify(base.network, read_images(chunk, preprocessing)), strict=True)
    ]
    write_csv(output, predictions, base.classes)
    print_predictions(predictions, base.classes)
    echo(f"probabilities of all {len(base.classes)} classes: {output}")
    return predictions


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files, and the image files in and below the folders, in order.

    Raises:
        UserInputError: A path does not exist, or a folder has no images.
    """
    files, faults = [], []
    for path in paths:
        listed = sorted(_images_below(path)) if path.is_dir() else [path] if path.is_file() else []
        if not listed:
            problem = "has no image files." if path.is_dir() else "does not exist."
            faults.append(Fault("images", path, problem, f"Give files or folders with {', '.join(IMAGE_SUFFIXES)}."))
        files += listed
    if faults or not paths:
        raise UserInputError(*(faults or [Fault("images", None, "is missing.", "Give image files or folders.")]))
    return files


def _images_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def read_images(paths: Sequence[Path], preprocessing: Preprocessing) -> Tensor:
    """Return images as pixels in [0, 255], float32 (N, C, H, W).

    Raises:
        UserInputError: Some files are not readable images; all are listed.
    """
    images, faults = [], []
    for path in paths:
        try:
            images.append(resize(read_image(path), preprocessing))
        except UserInputError as error:
            faults += [replace(fault, name="images") for fault in error.faults]
    if faults:
        raise UserInputError(*faults)
    return torch.from_numpy(np.stack(images)).float()


@torch.no_grad()
def classify(network: LayeredNetwork, pixels: Tensor) -> list[list[float]]:
    """Return the probabilities of pixels (N, C, H, W) in [0, 255], N lists of K numbers."""
    probabilities: list[list[float]] = Classifier(network).eval()(pixels).tolist()
    return probabilities


def write_request(path: Path, images: Sequence[Path], preprocessing: Preprocessing) -> None:
    """Write the JSON body of a request to the served model.

    Raises:
        UserInputError: There are too many images for one request.
    """
    if len(images) > MAX_REQUEST_IMAGES:
        problem = f"a request holds at most {MAX_REQUEST_IMAGES} images, got {len(images)}."
        raise invalid("request", path, problem, remedy="Give fewer images.")
    body = json.dumps({"inputs": read_images(images, preprocessing).int().tolist()}, separators=(",", ":"))
    with open_to_write(path, "request") as file:
        file.write(body)


def write_csv(path: Path, predictions: Sequence[Prediction], classes: Sequence[str]) -> None:
    """Write one row per image: file, class, probability, and the probability of each class."""
    with open_to_write(path, "output") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "class", "probability", *classes))
        for one in predictions:
            writer.writerow((one.path, classes[one.best], one.probabilities[one.best], *one.probabilities))


def open_to_write(path: Path, name: str) -> TextIO:
    """Return a new text file; raise UserInputError, naming the parameter, if it cannot be created."""
    try:
        return path.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise invalid(name, path, f"cannot be written: {error.strerror}.", remedy="Give another file.") from None


def print_predictions(predictions: Sequence[Prediction], classes: Sequence[str]) -> None:
    """Print the most probable class of each image, and the next one."""
    rows = []
    for one in predictions[:MAX_ROWS]:
        order = sorted(range(len(classes)), key=lambda k: -one.probabilities[k])[:2]
        cells = [text for k in order for text in (classes[k], f"{100 * one.probabilities[k]:.1f} %")]
        rows.append((str(one.path), *cells))
    print_table("", ("image", "class", "probability", "next", "probability"), rows)
    if len(predictions) > MAX_ROWS:
        echo(f"... and {len(predictions) - MAX_ROWS} more images")


def _chunks(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    return (paths[start : start + size] for start in range(0, len(paths), size))
