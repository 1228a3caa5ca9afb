"""Pooled features at several cuts as an artifact: looked up by the base's weights and the images that they cover."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from torch import Tensor

from pipeline.errors import invalid
from pipeline.networks.build import weights_digest
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.tensor_file import read_tensor_file
from pipeline.redaction import first_line
from pipeline.tracking import names
from pipeline.tracking.feature_artifacts import MAX_CANDIDATES, MAX_FEATURE_BYTES, check_shapes
from pipeline.tracking.stage_run import StageRun
from pipeline.tracking.store import search_newest_runs
from pipeline.training.cut_features import IDS, PREFIX, CutFeatures, cut_fingerprint, cut_widths
from pipeline.training.features import Features

logger = logging.getLogger(__name__)

ARTIFACT = f"{names.FEATURES}/{names.CUT_FEATURES_FILE}"


def log_cut_features(run: StageRun, features: CutFeatures, network: LayeredNetwork) -> None:
    """Log the file that features were written to, at `run.folder / ARTIFACT`, with the tags that identify it."""
    run.log_file(run.folder / ARTIFACT, names.FEATURES)
    run.set_tags(
        {
            names.CUT_FINGERPRINT: cut_fingerprint(network),
            names.CUT_CONTENT: weights_digest(features.tensors),
            names.CUT_SECONDS: repr(features.seconds),
        }
    )


def check_cut_size(network: LayeredNetwork, cuts: tuple[int, ...], images: int) -> None:
    """Raise UserInputError if the features of some images would exceed the size limit of the file."""
    size = 4 * images * sum(cut_widths(network, cuts).values())
    if size > MAX_FEATURE_BYTES:
        problem = f"features of {images} images exceed the limit of {MAX_FEATURE_BYTES / 2**30:.1f} GiB."
        raise invalid("cuts", f"{size / 2**30:.1f} GiB", problem, remedy="Choose fewer cuts, or fewer labels.")


def find_cut_features(client: MlflowClient, network: LayeredNetwork, depth: int, *, ids: Tensor) -> Features | None:
    """Return the newest features of a base at a cut that cover all images with these identities, or None."""
    condition = f"attributes.status = 'FINISHED' and tags.{names.CUT_FINGERPRINT} = '{cut_fingerprint(network)}'"
    for run in search_newest_runs(client, condition, limit=MAX_CANDIDATES):
        try:
            tensors = _load(client, run.info.run_id, run.data.tags.get(names.CUT_CONTENT, ""))
            seconds = float(run.data.tags.get(names.CUT_SECONDS, "nan"))
        except (MlflowException, OSError, ValueError) as error:
            logger.info(f"skipped features of run {run.info.run_id}: {first_line(error)}")
            continue
        features = CutFeatures(tensors, seconds)
        if depth in features.cuts and features.at(depth).has_all(ids):
            return features.at(depth)
    return None


@functools.lru_cache(maxsize=2)  # the arms of a plan read the same file
def _load(client: MlflowClient, run_id: str, content: str) -> dict[str, Tensor]:
    """Return the tensors of a run, memory-mapped.

    Raises:
        MlflowException: There is no artifact.
        ValueError: It is damaged, or too large.
    """
    with TemporaryDirectory() as folder:
        tensors, _ = read_tensor_file(Path(client.download_artifacts(run_id, ARTIFACT, folder)), MAX_FEATURE_BYTES)
    if weights_digest(tensors) != content:
        raise ValueError("altered content")
    for name, values in tensors.items():
        if name != IDS and not (name.startswith(PREFIX) and name.removeprefix(PREFIX).isdecimal()):
            raise ValueError(f"unexpected tensor {name}")
        if name != IDS:
            check_shapes(values, tensors[IDS])
    return tensors
