"""Features as an artifact: one safetensors file with its fingerprint, found again and held against what is wanted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import safetensors.torch
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from torch import Tensor

from pipeline.data.splits import Examples
from pipeline.errors import Fault, UserInputError
from pipeline.networks.build import weights_digest
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.tensor_file import read_tensor_file
from pipeline.tracking import names
from pipeline.tracking.base_model import search_features
from pipeline.tracking.stage_run import StageRun
from pipeline.training.features import Features, compute_features, differing_parts, fingerprint_digest

MAX_FEATURE_BYTES = 4 << 30


def log_features(run: StageRun, features: Features) -> None:
    """Log features as the run's artifact, and the digest of their fingerprint as a tag to be found by."""
    path = run.folder / names.FEATURES / names.FEATURES_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"values": features.values.contiguous(), "indices": features.indices}
    header = {
        "fingerprint": json.dumps(features.fingerprint),
        "depth": str(features.depth),
        "seconds": repr(features.seconds),
        "content": weights_digest(tensors),
    }
    safetensors.torch.save_file(tensors, path, header)
    run.log_file(path, names.FEATURES)
    run.set_tags({names.FEATURES_FINGERPRINT: fingerprint_digest(features.fingerprint)})


def find_features(
    client: MlflowClient, wanted: Mapping[str, str], passed_over: Callable[[str], None]
) -> Features | None:
    """Return features with exactly the wanted fingerprint, None where no finished run has them whole."""
    for run_id in search_features(client, fingerprint_digest(wanted)):
        try:
            return load_features(client, run_id, wanted)
        except UserInputError as error:
            passed_over(f"passed over: {error}")
    return None


def check_features_exist(client: MlflowClient, reference: str) -> None:
    """Raise UserInputError where a run that features are asked of has none."""
    run_id = reference.removeprefix("runs:/").split("/")[0]
    try:
        found = {item.path for item in client.list_artifacts(run_id, names.FEATURES)}
    except MlflowException as error:
        raise _refused(reference, f"cannot be read: {str(error).splitlines()[0]}") from None
    if f"{names.FEATURES}/{names.FEATURES_FILE}" not in found:
        raise _refused(reference, "is a run without features")


def check_size(network: LayeredNetwork, depth: int, examples: Examples) -> None:
    """Refuse features that would not fit into memory.

    Raises:
        UserInputError: They would take more than a third of the free memory, or more than is read back.
    """
    one = compute_features(network, depth, examples.take(torch.zeros(1, dtype=torch.int64))).values
    size, free = one.nbytes * len(examples), psutil.virtual_memory().available
    limit = min(free // 3, MAX_FEATURE_BYTES)
    if size > limit:
        raise UserInputError(
            Fault(
                "features",
                f"{size / 2**30:.1f} GiB",
                f"for {len(examples)} images is more than the {limit / 2**30:.1f} GiB that may be kept in memory.",
                "Use features=none, or freeze more blocks (higher ones are smaller).",
            )
        )


def load_features(client: MlflowClient, reference: str, wanted: Mapping[str, str]) -> Features:
    """Return the features of a run, if they are the wanted ones.

    Args:
        client: Of the store.
        reference: A run id, or `runs:/ID/features`.
        wanted: The fingerprint that they must have.

    Raises:
        UserInputError: There are none, the file is damaged, or the fingerprint differs; says in which part.
    """
    run_id = reference.removeprefix("runs:/").split("/")[0]
    name = f"{names.FEATURES}/{names.FEATURES_FILE}"
    try:
        sizes = {item.path: item.file_size or 0 for item in client.list_artifacts(run_id, names.FEATURES)}
        if name not in sizes:
            raise _refused(reference, "is a run without features")
        if sizes[name] > MAX_FEATURE_BYTES:
            raise _refused(reference, f"holds {sizes[name]} bytes, more than this project reads")
        with TemporaryDirectory() as folder:
            features = read_features(Path(client.download_artifacts(run_id, name, folder)))
    except (MlflowException, OSError) as error:
        raise _refused(reference, f"cannot be read: {str(error).splitlines()[0]}") from None
    except DamagedFeaturesError as error:
        raise _refused(reference, f"is damaged: {error}") from None
    if differing := differing_parts(wanted, features.fingerprint):
        raise _refused(reference, f"does not belong to this base, cut and data: different {', '.join(differing)}")
    return features


class DamagedFeaturesError(ValueError):
    """A feature file is not whole, or not what its header says."""


def read_features(path: Path) -> Features:
    """Read a feature file.

    Raises:
        DamagedFeaturesError: It is truncated or altered, or holds other things than features; says what.
        OSError: It cannot be read.
    """
    try:
        tensors, header = read_tensor_file(path, MAX_FEATURE_BYTES)
        if set(tensors) != {"values", "indices"} or weights_digest(tensors) != header["content"]:
            raise ValueError("its content was altered")
        fingerprint = json.loads(header["fingerprint"])
        if not isinstance(fingerprint, dict) or not all(isinstance(part, str) for part in fingerprint.values()):
            raise ValueError("its fingerprint is not one")
        depth, seconds = int(header["depth"]), float(header["seconds"])
        values, indices = check_shapes(tensors["values"], tensors["indices"])
    except KeyError as error:
        raise DamagedFeaturesError(f"{path.name}: its header lacks {error}") from None
    except (ValueError, RecursionError) as error:
        raise DamagedFeaturesError(f"{path.name}: {error}") from None
    return Features(values, indices, depth, fingerprint, seconds)


def check_shapes(values: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return values and indices where they can be features: finite float32 (N, ...), ascending int64 (N,)."""
    if indices.dtype != torch.int64 or indices.ndim != 1 or bool((indices.diff() <= 0).any()):
        raise ValueError("its indices are not ascending places of images")
    if values.dtype != torch.float32 or values.ndim < 2 or len(values) != len(indices) or not len(indices):
        raise ValueError("its values are not float32 features, one row an index")
    if not bool(values.isfinite().all()):
        raise ValueError("its values are not all finite numbers")
    return values, indices


def _refused(reference: str, why: str) -> UserInputError:
    return UserInputError(Fault("features", reference, f"{why}.", "Use features=auto, or run cache_features."))
