"""Read the three files from which a model is rebuilt. Nothing is unpickled.

The files are untrusted input: only these fixed names are read, sizes are checked before reading, and the architecture
is validated before memory is allocated. All functions raise UserInputError if a file is missing or invalid.
"""

from functools import partial
from pathlib import Path

import mlflow.artifacts
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from torch import Tensor

from pipeline.errors import EarlierReleaseError, invalid
from pipeline.networks.build import AnyArchitecture, architecture_from_json, build_network
from pipeline.networks.graph.record import GraphArchitecture
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.origins.rebuild import weights_file_bounds
from pipeline.networks.origins.source import MAX_GRAPH_PARAMETERS, ModelSource
from pipeline.networks.reuse import check_tensors
from pipeline.networks.tensor_file import MAX_HEADER_BYTES, read_tensor_file
from pipeline.redaction import first_line
from pipeline.runtime import generator
from pipeline.tracking import names

MAX_BUILT_IN_BYTES = 400 << 20  # weights of an MLP or CNN
MAX_BYTES = {
    names.WEIGHTS_FILE: 4 * MAX_GRAPH_PARAMETERS + MAX_HEADER_BYTES,
    names.ARCHITECTURE_FILE: 1 << 20,
    names.IDENTITIES_FILE: 400 << 20,
}

invalid_base = partial(invalid, "base", remedy="Choose another base, or base=auto.")


def download_files(client: MlflowClient, model: LoggedModel, reference: str, *, folder: Path) -> dict[str, Path]:
    """Check the sizes of the three files and download them to `folder`."""
    try:
        items = client.list_logged_model_artifacts(model.model_id, names.EXTRA_FILES)
        sizes = {item.path.rsplit("/", 1)[-1]: item.file_size or 0 for item in items}
        missing = [name for name in MAX_BYTES if name not in sizes]
        if missing:
            raise invalid_base(reference, f"not a model of this project, or incomplete: no {', '.join(missing)}.")
        large = [name for name, limit in MAX_BYTES.items() if sizes[name] > limit]
        if large:
            raise invalid_base(reference, f"files exceed the size limit: {', '.join(large)}.")
        uri = f"{model.artifact_location.rstrip('/')}/{names.EXTRA_FILES}"
        return {
            name: Path(mlflow.artifacts.download_artifacts(f"{uri}/{name}", dst_path=str(folder))) for name in MAX_BYTES
        }
    except (MlflowException, OSError) as error:
        raise invalid_base(reference, f"cannot be read: {first_line(error)}.") from None


def rebuild(files: dict[str, Path], reference: str, source: ModelSource | None = None) -> LayeredNetwork:
    """Build the network of the architecture file and load its weights, which must match exactly.

    Args:
        files: Paths of the files, by name.
        reference: The model as written by the user, for error messages.
        source: The user's code, if it was named in this command.
    """
    try:
        architecture = architecture_from_json(_read_text(files[names.ARCHITECTURE_FILE]))
    except EarlierReleaseError:
        problem = "trained by an earlier release, which stored the positions of images."
        raise invalid_base(reference, problem, remedy="Train it again, or choose another base.") from None
    except (ValueError, OSError) as error:
        raise invalid_base(reference, f"damaged file {names.ARCHITECTURE_FILE}: {error}.") from None
    try:
        max_bytes = _check_weights_size(architecture, files[names.WEIGHTS_FILE], source)
        network = build_network(architecture, generator(0, "placeholder"), source)
    except (ValueError, OSError) as error:
        raise invalid_base(reference, f"cannot be rebuilt: {str(error).rstrip('.')}.") from None
    try:
        weights, _ = read_tensor_file(files[names.WEIGHTS_FILE], max_bytes)
        check_tensors(weights, network.state_dict())
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise ValueError("weights contain NaN or infinity")
    except (ValueError, OSError) as error:
        raise invalid_base(reference, f"damaged file {names.WEIGHTS_FILE}: {error}.") from None
    network.load_state_dict(weights)
    return network


def _check_weights_size(architecture: AnyArchitecture, path: Path, source: ModelSource | None) -> int:
    """Check the size of the weights file without allocating memory, and return its upper bound in bytes.

    Raises:
        ValueError: The size does not match the architecture.
    """
    if not isinstance(architecture, GraphArchitecture):
        return MAX_BUILT_IN_BYTES
    smallest, largest = weights_file_bounds(architecture, source)
    largest += MAX_HEADER_BYTES
    size = path.stat().st_size
    if not smallest <= size <= largest:
        raise ValueError(f"{path.name} has {size} bytes; {architecture.model} needs {smallest} to {largest}")
    return largest


def _read_text(path: Path) -> str:
    """Read a text file, after checking its actual size, which may differ from the listed one."""
    size = path.stat().st_size
    if size > MAX_BYTES[path.name]:
        raise ValueError(f"{size} bytes, more than the limit of {MAX_BYTES[path.name]}")
    return path.read_text(encoding="utf-8")


def read_identities(path: Path, reference: str) -> dict[str, Tensor]:
    """Return the identities of the images used by a model: `train`, `validation` and `seen`, int64 (N,)."""
    try:
        identities, _ = read_tensor_file(path, MAX_BYTES[names.IDENTITIES_FILE])
        if set(identities) != {"train", "validation", "seen"}:
            raise ValueError("tensors must be train, validation and seen")
        if any(t.ndim != 1 or t.dtype != torch.int64 or bool((t < 0).any()) for t in identities.values()):
            raise ValueError("identities must be non-negative int64 vectors")
    except (ValueError, OSError) as error:
        raise invalid_base(reference, f"damaged file {path.name}: {error}.") from None
    return identities
