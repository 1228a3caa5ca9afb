"""Cached features as an artifact: a safetensors file with the fingerprint of their inputs."""

import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import safetensors.torch
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from torch import Tensor

from pipeline.data.examples import Examples
from pipeline.errors import UserInputError, invalid
from pipeline.networks.build import weights_digest
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.tensor_file import read_tensor_file
from pipeline.redaction import first_line
from pipeline.tracking import names
from pipeline.tracking.outbox.local_state import run_id_of
from pipeline.tracking.queries import artifact_sizes
from pipeline.tracking.stage_run import StageRun
from pipeline.tracking.store import search_newest_runs
from pipeline.training.features import Features, compute_features, differing_parts, fingerprint_digest

logger = logging.getLogger(__name__)

MAX_FEATURE_BYTES = 4 << 30
MAX_CANDIDATES = 10
ARTIFACT = f"{names.FEATURES}/{names.FEATURES_FILE}"

_invalid_features = partial(invalid, "features", remedy="Use features=auto, or run cache_features.")


class DamagedFeaturesError(ValueError):
    """A feature file is truncated or altered."""


def log_features(run: StageRun, features: Features) -> None:
    """Log features as an artifact of the run, and the digest of their fingerprint as a tag."""
    path = run.folder / ARTIFACT
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"values": features.values.contiguous(), "ids": features.ids}
    header = {
        "fingerprint": json.dumps(features.fingerprint),
        "depth": str(features.depth),
        "seconds": repr(features.seconds),
        "content": weights_digest(tensors),
    }
    safetensors.torch.save_file(tensors, path, header)
    run.log_file(path, names.FEATURES)
    run.set_tags({names.FEATURES_FINGERPRINT: fingerprint_digest(features.fingerprint)})


def find_features(client: MlflowClient, fingerprint: Mapping[str, str]) -> Features | None:
    """Return the newest valid features with this fingerprint, or None; damaged ones are skipped with a log line."""
    tag = f"tags.{names.FEATURES_FINGERPRINT} = '{fingerprint_digest(fingerprint)}'"
    for run in search_newest_runs(client, f"attributes.status = 'FINISHED' and {tag}", limit=MAX_CANDIDATES):
        try:
            return load_features(client, run.info.run_id, fingerprint)
        except UserInputError as error:
            logger.info(f"skipped: {error}")
    return None


def check_features_exist(client: MlflowClient, reference: str) -> None:
    """Raise UserInputError if a run has no features of acceptable size."""
    try:
        _check_artifact(client, run_id_of(reference), reference)
    except MlflowException as error:
        raise _invalid_features(reference, f"cannot be read: {first_line(error)}.") from None


def check_size(network: LayeredNetwork, depth: int, examples: Examples) -> None:
    """Check that features fit into memory before they are computed.

    Raises:
        UserInputError: They would need more than a third of the free memory, or exceed the size limit of the file.
    """
    sample = compute_features(network, depth, examples.take(torch.zeros(1, dtype=torch.int64))).values
    size, free = sample.nbytes * len(examples), psutil.virtual_memory().available
    limit = min(free // 3, MAX_FEATURE_BYTES)
    if size > limit:
        raise invalid(
            "features",
            f"{size / 2**30:.1f} GiB",
            f"features of {len(examples)} images exceed the limit of {limit / 2**30:.1f} GiB.",
            remedy="Use features=none, or freeze more blocks (later blocks have smaller outputs).",
        )


def load_features(client: MlflowClient, reference: str, fingerprint: Mapping[str, str]) -> Features:
    """Return the features of a run, given as its id or as `runs:/ID/features`, after validation.

    Raises:
        UserInputError: The run has no features, the file is damaged, or the fingerprint differs.
    """
    run_id = run_id_of(reference)
    try:
        _check_artifact(client, run_id, reference)
        with TemporaryDirectory() as folder:
            features = read_features(Path(client.download_artifacts(run_id, ARTIFACT, folder)))
    except (MlflowException, OSError) as error:
        raise _invalid_features(reference, f"cannot be read: {first_line(error)}.") from None
    except DamagedFeaturesError as error:
        raise _invalid_features(reference, f"damaged file {error}.") from None
    if differing := differing_parts(fingerprint, features.fingerprint):
        raise _invalid_features(reference, f"computed from other inputs: {', '.join(differing)} differ.")
    return features


def read_features(path: Path) -> Features:
    """Read and validate a feature file.

    Raises:
        DamagedFeaturesError: The file is truncated, altered or not a feature file.
        OSError: The file cannot be read.
    """
    try:
        tensors, header = read_tensor_file(path, MAX_FEATURE_BYTES)
        if set(tensors) != {"values", "ids"} or weights_digest(tensors) != header["content"]:
            raise ValueError("altered content")
        fingerprint = json.loads(header["fingerprint"])
        if not isinstance(fingerprint, dict) or not all(isinstance(part, str) for part in fingerprint.values()):
            raise ValueError("invalid fingerprint")
        depth, seconds = int(header["depth"]), float(header["seconds"])
        values, ids = check_shapes(tensors["values"], tensors["ids"])
    except KeyError as error:
        raise DamagedFeaturesError(f"{path.name}: no {error} in its header") from None
    except (ValueError, RecursionError) as error:
        raise DamagedFeaturesError(f"{path.name}: {error}") from None
    return Features(values, ids, depth, fingerprint, seconds)


def check_shapes(values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return both tensors if valid, else raise ValueError: finite float32 (N, ...) and non-negative int64 (N,)."""
    if ids.dtype != torch.int64 or ids.ndim != 1 or bool((ids < 0).any()):
        raise ValueError("ids must be a non-negative int64 vector")
    if values.dtype != torch.float32 or values.ndim < 2 or len(values) != len(ids) or not len(ids):
        raise ValueError("values must be float32 with one row per identity")
    if not bool(values.isfinite().all()):
        raise ValueError("values contain NaN or infinity")
    return values, ids


def _check_artifact(client: MlflowClient, run_id: str, reference: str) -> None:
    sizes = artifact_sizes(client, run_id, names.FEATURES)
    if ARTIFACT not in sizes:
        raise _invalid_features(reference, "this run has no features.")
    if sizes[ARTIFACT] > MAX_FEATURE_BYTES:
        raise _invalid_features(reference, f"{sizes[ARTIFACT]} bytes exceed the limit of {MAX_FEATURE_BYTES}.")
