"""Read finished runs for reports and comparisons."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Run
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from pipeline.errors import invalid
from pipeline.redaction import first_line
from pipeline.tracking import names
from pipeline.tracking.outbox.local_state import resolve_run_id
from pipeline.tracking.stage_run import StageRun
from pipeline.tracking.store import search_newest_runs

logger = logging.getLogger(__name__)

MAX_SETTING_BYTES = 1 << 20
MAX_RECORD_BYTES = 16 << 20
MAX_PREDICTIONS_BYTES = 64 << 20
MAX_COMPARED_RUNS = 6
COMPARE_LIMIT = 200  # runs searched for siblings
MEASURED_LIMIT = 1000  # transfer runs shown beside a probe
CURVES = (names.TRAIN_LOSS, names.TRAIN_ACCURACY, names.VAL_LOSS, names.VAL_ACCURACY, names.EPOCH_SECONDS)

_invalid_runs = partial(invalid, "runs", remedy="Pass finished runs, separated by commas.")


@dataclass(frozen=True)
class LoggedData:
    """Images that a run has used."""

    name: str  # dataset and classes
    split: str  # training, validation or testing
    digest: str


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, as read by reports."""

    run_id: str
    name: str
    stage: str  # its entry point
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]  # final values
    curves: dict[str, list[float]]  # values per epoch of each metric in `CURVES`
    data: tuple[LoggedData, ...] = ()


@dataclass(frozen=True)
class ImagePredictions:
    """What a run predicted for its test images, ordered by identity.

    Attributes:
        identities: Hexadecimal, shape (images,); equal images have equal identities.
        classes: int64, as outputs of the network, shape (images,).
        predicted: int64, shape (images,).
    """

    identities: NDArray[np.str_]
    classes: NDArray[np.int64]
    predicted: NDArray[np.int64]


@dataclass(frozen=True)
class Store:
    """A tracking store and its active experiment, as used by reports."""

    client: MlflowClient
    experiment_id: str

    @property
    def server(self) -> str:
        """The tracking server's URL, from which `open_store` has removed credentials; empty for other stores."""
        uri = mlflow.get_tracking_uri().rstrip("/")
        return uri if uri.startswith(("http://", "https://")) else ""


def read_step(client: MlflowClient, run_id: str) -> FinishedRun:
    """Return the finished run of a plan step, of any stage."""
    return _read_run(client, client.get_run(resolve_run_id(run_id)))


def read_trained_run(client: MlflowClient, run_id: str) -> FinishedRun:
    """Return a finished run of a stage that trains; raise UserInputError for any other run."""
    try:
        run = client.get_run(resolve_run_id(run_id))
    except MlflowException:
        raise _invalid_runs(run_id, "not found.") from None
    if run.info.status != "FINISHED":
        raise _invalid_runs(run_id, f"only FINISHED runs can be compared, this one is {run.info.status}.")
    if names.TEST_ACCURACY not in run.data.metrics:
        raise _invalid_runs(run_id, "this run did not train anything.")
    return _read_run(client, run)


def newest_run(client: MlflowClient, stage: str, *, like: FinishedRun | None = None) -> FinishedRun | None:
    """Return the newest finished run of a stage, with the data, classes, number of labels and seed of `like`."""
    for run in search_newest_runs(client, f"attributes.status = 'FINISHED' and tags.{names.STAGE} = '{stage}'"):
        if like is None or (
            _same(run.data.tags, like.tags, (names.DATASET, names.CLASSES))
            and _same(run.data.params, like.params, ("per_class", "seed"))
        ):
            return _read_run(client, run)
    return None


@dataclass(frozen=True)
class MeasuredTransfers:
    """Test accuracies of finished `transfer` runs without layers above the cut, by number of copied blocks."""

    frozen: dict[int, list[float]]  # all copied blocks frozen
    fine_tuned: dict[int, list[float]]  # all copied blocks fine-tuned


def measured_transfers(client: MlflowClient, like: Mapping[str, str]) -> MeasuredTransfers:
    """Return what transfer runs have measured with the base, data, classes and number of labels in some parameters."""
    measured = MeasuredTransfers({}, {})
    condition = f"attributes.status = 'FINISHED' and tags.{names.STAGE} = 'transfer'"
    condition += f" and tags.{names.BASE_MODEL_URI} = '{like['base']}'"
    for run in search_newest_runs(client, condition, limit=MEASURED_LIMIT):
        params, accuracy = run.data.params, run.data.metrics.get(names.TEST_ACCURACY)
        same = _same(params, dict(like), ("dataset", "classes", "per_class"))
        plain = params.get("upper") == "drop" and "train_blocks" not in params and params.get("strategy") != "lp_ft"
        if not same or accuracy is None or not plain:
            continue
        copied, unfrozen = int(params["reuse_layers"]), int(params["unfreeze"])
        if unfrozen in (0, copied):
            (measured.fine_tuned if unfrozen else measured.frozen).setdefault(copied, []).append(accuracy)
    return measured


def _same(first: dict[str, str], second: dict[str, str], keys: tuple[str, ...]) -> bool:
    return all(first.get(key) == second.get(key) for key in keys)


def _read_run(client: MlflowClient, run: Run) -> FinishedRun:
    curves = {}
    for name in CURVES:
        points = sorted(client.get_metric_history(run.info.run_id, name), key=lambda point: int(point.step))
        curves[name] = [float(point.value) for point in points]
    return FinishedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        stage=run.data.tags.get(names.STAGE, ""),
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        curves=curves,
        data=tuple(_logged_data(item) for item in (run.inputs.dataset_inputs if run.inputs else ())),
    )


def _logged_data(item: DatasetInput) -> LoggedData:
    tags = {tag.key: tag.value for tag in item.tags}
    return LoggedData(item.dataset.name, tags.get(names.DATA_CONTEXT, ""), item.dataset.digest)


def newest_plan_run(client: MlflowClient) -> str:
    """Return the newest plan run with a report, complete or not, or an empty string."""
    runs = search_newest_runs(client, f"tags.{names.STAGE} = 'main'")
    return next((run.info.run_id for run in runs if names.PLAN_DIGEST in run.data.tags), "")


def read_plan_record(client: MlflowClient, run_id: str) -> str | None:
    """Return the record of a plan run as JSON, or None for other runs; raise UserInputError if it is unreadable."""
    try:
        if client.get_run(run_id).data.tags.get(names.STAGE) != "main":
            return None
    except MlflowException:
        raise _invalid_runs(run_id, "not found.") from None
    try:
        return _read_artifact(client, run_id, f"{names.REPORT}/{names.PLAN_RECORD}", max_bytes=MAX_RECORD_BYTES)
    except (MlflowException, OSError, ValueError) as error:
        raise _invalid_runs(run_id, f"the record of this plan run is unreadable: {first_line(error)}.") from None


def read_test_predictions(client: MlflowClient, run_id: str) -> ImagePredictions | None:
    """Return the predictions of a run; None if it has none, as runs of earlier releases, or if they are unreadable."""
    try:
        text = _read_artifact(client, run_id, names.TEST_PREDICTIONS, max_bytes=MAX_PREDICTIONS_BYTES)
        table = pd.read_csv(StringIO(text), dtype={"image": str, "class": np.int64, "predicted": np.int64})
        table = table.sort_values(["image", "class"])
    except (MlflowException, OSError, ValueError, KeyError) as error:
        logger.debug(f"run {run_id} has no predictions: {first_line(error)}")
        return None
    return ImagePredictions(*(table[name].to_numpy() for name in ("image", "class", "predicted")))


def read_best_setting(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """Return the best setting of a tune run; raise UserInputError if it has no valid one."""
    try:
        setting = json.loads(_read_artifact(client, run_id, names.BEST_SETTING, max_bytes=MAX_SETTING_BYTES))
        if not isinstance(setting, dict):
            raise ValueError(f"damaged {names.BEST_SETTING}")
    except (MlflowException, OSError, ValueError, RecursionError) as error:
        problem = f"no usable best setting: {first_line(error)}."
        raise invalid("params_from", run_id, problem, remedy="Pass a finished tune run.") from None
    return setting


def artifact_sizes(client: MlflowClient, run_id: str, folder: str | None = None) -> dict[str, int]:
    """Return the size in bytes of each artifact in a folder of a run."""
    return {item.path: item.file_size or 0 for item in client.list_artifacts(run_id, folder)}


def _read_artifact(client: MlflowClient, run_id: str, path: str, *, max_bytes: int) -> str:
    """Return the text of an artifact; raise ValueError if it is missing or too large."""
    folder, _, name = path.rpartition("/")
    size = artifact_sizes(client, run_id, folder or None).get(path)
    if size is None:
        raise ValueError(f"no artifact {name}")
    with TemporaryDirectory() as temporary:
        file = Path(client.download_artifacts(run_id, path, temporary)) if size <= max_bytes else None
        if file is None or file.stat().st_size > max_bytes:  # the listed size may be wrong
            raise ValueError(f"{name} exceeds {max_bytes} bytes")
        return file.read_text(encoding="utf-8")


def compare_link(run: StageRun) -> str:
    """Return the URL of the UI page that compares a run with its siblings; empty without a tracking server.

    Siblings are the runs of the same parent, otherwise the newest finished runs on the same data and classes.
    """
    server, run_id = Store(run.client, run.experiment_id).server, run.sender.run_id
    if not server:
        return ""
    try:
        tags = run.client.get_run(run_id).data.tags
        runs = search_newest_runs(run.client, "attributes.status = 'FINISHED'", limit=COMPARE_LIMIT)
    except MlflowException:
        return ""  # a link is not worth failing the run
    shared = (names.PARENT_RUN_ID,) if names.PARENT_RUN_ID in tags else (names.DATASET, names.CLASSES)
    others = [other.info.run_id for other in runs if _same(other.data.tags, tags, shared)]
    compared = [run_id, *(other for other in others if other != run_id)][:MAX_COMPARED_RUNS]
    if len(compared) == 1:
        return f"{server}/#/experiments/{run.experiment_id}/runs/{run_id}"
    runs_json, experiments = quote(json.dumps(compared)), quote(json.dumps([run.experiment_id]))
    return f"{server}/#/compare-runs?runs={runs_json}&experiments={experiments}"
