"""The three files that a model is rebuilt from: brought here, checked, read. Nothing is ever unpickled.

They may be anyone's: only these fixed names are read, their sizes are bounded before they are read, and the
description is held against its limits before anything is allocated.
"""

from __future__ import annotations

from pathlib import Path

import mlflow.artifacts
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from torch import Tensor

from pipeline.errors import Fault, UserInputError
from pipeline.networks.build import architecture_from_json, build_network
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.reuse import check_tensors
from pipeline.networks.tensor_file import read_tensor_file
from pipeline.runtime import generator
from pipeline.tracking import names

MAX_BYTES = {names.WEIGHTS_FILE: 400 << 20, names.ARCHITECTURE_FILE: 1 << 20, names.DRAW_FILE: 400 << 20}


def download_files(client: MlflowClient, model: LoggedModel, reference: str, folder: Path) -> dict[str, Path]:
    """Copy the three files into a folder, after a look at their sizes, and return where each is.

    Raises:
        UserInputError: One is missing, too large, or leads out of the model's own folder.
    """
    try:
        listed = client.list_logged_model_artifacts(model.model_id, names.EXTRA_FILES)
        sizes = {item.path.rsplit("/", 1)[-1]: item.file_size or 0 for item in listed}
        missing = [name for name in MAX_BYTES if name not in sizes]
        if missing:
            raise refused(reference, f"was not made by this project, or is incomplete: it lacks {', '.join(missing)}")
        large = [name for name, limit in MAX_BYTES.items() if sizes[name] > limit]
        if large:
            raise refused(reference, f"has files larger than this project reads: {', '.join(large)}")
        uri = f"{model.artifact_location.rstrip('/')}/{names.EXTRA_FILES}"
        return {
            name: Path(mlflow.artifacts.download_artifacts(f"{uri}/{name}", dst_path=str(folder))) for name in MAX_BYTES
        }
    except (MlflowException, OSError) as error:
        raise refused(reference, f"cannot be read: {first_line(error)}") from None


def rebuild(files: dict[str, Path], reference: str) -> LayeredNetwork:
    """Return the described network with its weights; every tensor must fit.

    Raises:
        UserInputError: The description or the weights are damaged.
    """
    try:
        architecture = architecture_from_json(_text_of(files[names.ARCHITECTURE_FILE]))
    except (ValueError, OSError) as error:
        raise refused(reference, f"is damaged: {names.ARCHITECTURE_FILE}: {error}") from None
    network = build_network(architecture, generator(0, "placeholder"))
    try:
        weights, _ = read_tensor_file(files[names.WEIGHTS_FILE], MAX_BYTES[names.WEIGHTS_FILE])
        check_tensors(weights, network.state_dict())
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise ValueError("its weights are not all finite numbers")
    except (ValueError, OSError) as error:
        raise refused(reference, f"is damaged: {names.WEIGHTS_FILE}: {error}") from None
    network.load_state_dict(weights)
    return network


def _text_of(path: Path) -> str:
    """Return a text file's content; what the listing said of its size need not be true."""
    size = path.stat().st_size
    if size > MAX_BYTES[path.name]:
        raise ValueError(f"{path.name} holds {size} bytes, more than is read")
    return path.read_text(encoding="utf-8")


def read_draw(path: Path, reference: str) -> dict[str, Tensor]:
    """Return the places of images that a model was made from: `train`, `validation` and `seen`, int32 (N,).

    Raises:
        UserInputError: The file is damaged or holds something else.
    """
    try:
        draw, _ = read_tensor_file(path, MAX_BYTES[names.DRAW_FILE])
        if set(draw) != {"train", "validation", "seen"}:
            raise ValueError("it must hold train, validation and seen")
        if any(t.ndim != 1 or t.dtype != torch.int32 or bool((t < 0).any()) for t in draw.values()):
            raise ValueError("it must hold places of images")
    except (ValueError, OSError) as error:
        raise refused(reference, f"is damaged: {path.name}: {error}") from None
    return draw


def refused(reference: str, why: str) -> UserInputError:
    """Return the refusal of a base."""
    return UserInputError(Fault("base", reference, f"{why}.", "Choose another, or base=auto."))


def first_line(error: Exception) -> str:
    """Return what an exception says, without what follows its first line."""
    return str(error).strip().splitlines()[0].rstrip(".")
