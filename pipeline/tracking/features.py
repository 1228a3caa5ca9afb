"""Features as an artifact: one safetensors file with its fingerprint, found again and held against what is wanted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import safetensors
import safetensors.torch
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.data.splits import Examples
from pipeline.errors import Fault, UserInputError
from pipeline.networks.build import weights_digest
from pipeline.networks.layered import LayeredNetwork
from pipeline.tracking import names
from pipeline.tracking.lineage import search_features
from pipeline.tracking.run import StageRun
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
            features = _read(Path(client.download_artifacts(run_id, name, folder)))
    except (MlflowException, OSError) as error:
        raise _refused(reference, f"cannot be read: {str(error).splitlines()[0]}") from None
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        if isinstance(error, UserInputError):
            raise
        raise _refused(reference, f"is damaged: {error}") from None
    if differing := differing_parts(wanted, features.fingerprint):
        raise _refused(reference, f"does not belong to this base, cut and data: different {', '.join(differing)}")
    return features


def _read(path: Path) -> Features:
    """Read a feature file.

    Raises:
        ValueError: Its content is not what its header says.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in ("values", "indices")}
    if weights_digest(tensors) != header["content"]:
        raise ValueError("its content was altered")
    return Features(
        tensors["values"],
        tensors["indices"],
        int(header["depth"]),
        json.loads(header["fingerprint"]),
        float(header["seconds"]),
    )


def _refused(reference: str, why: str) -> UserInputError:
    return UserInputError(Fault("features", reference, f"{why}.", "Use features=auto, or run cache_features."))
