"""Reading finished runs back: what reports and comparisons are made from."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.errors import Fault, UserInputError
from pipeline.tracking import names
from pipeline.tracking.outbox.local_state import resolve_run_id
from pipeline.tracking.store import active_experiment_id

MAX_SETTING_BYTES = 1 << 20
MAX_RECORD_BYTES = 16 << 20
SEARCHED_RUNS = 1000
CURVES = (names.TRAIN_LOSS, names.TRAIN_ACCURACY, names.VAL_LOSS, names.VAL_ACCURACY, names.EPOCH_SECONDS)


@dataclass(frozen=True)
class Arm:
    """A finished run as a report sees it.

    Attributes:
        run_id: MLflow's id.
        name: The run's name.
        stage: Its entry point.
        tags: All of them.
        params: All of them.
        metrics: Those logged at the end.
        curves: One list a metric that is logged every epoch, in order.
    """

    run_id: str
    name: str
    stage: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    curves: dict[str, list[float]]


@dataclass(frozen=True)
class Store:
    """A tracking store as a report sees it.

    Attributes:
        client: Of the store.
        experiment_id: The active experiment.
    """

    client: MlflowClient
    experiment_id: str

    @property
    def server(self) -> str:
        """The tracking server's address, without credentials; empty where there is none."""
        uri = mlflow.get_tracking_uri().rstrip("/")
        return re.sub(r"//[^/@]*@", "//", uri) if uri.startswith(("http://", "https://")) else ""


def read_step(client: MlflowClient, run_id: str) -> Arm:
    """Return a finished step of a study, whatever its stage."""
    return _arm(client, client.get_run(resolve_run_id(run_id)))


def newest_plan_run(client: MlflowClient) -> str:
    """Return the newest run of a study that has a report, finished or with steps missing; empty without one."""
    found = client.search_runs(
        [active_experiment_id()],
        f"tags.{names.STAGE} = 'main'",
        max_results=SEARCHED_RUNS,
        order_by=["attributes.end_time DESC"],
    )
    return next((run.info.run_id for run in found if names.PLAN_DIGEST in run.data.tags), "")


def read_plan_record(client: MlflowClient, run_id: str) -> str | None:
    """Return the record of a study's run as JSON, None where the run is not one of a study.

    Raises:
        UserInputError: It is one, and the record cannot be read.
    """
    try:
        if client.get_run(run_id).data.tags.get(names.STAGE) != "main":
            return None
    except MlflowException:
        raise _refused(run_id, "cannot be found") from None
    name = f"{names.REPORT}/{names.PLAN_RECORD}"
    try:
        sizes = {item.path: item.file_size or 0 for item in client.list_artifacts(run_id, names.REPORT)}
        if sizes.get(name, MAX_RECORD_BYTES + 1) > MAX_RECORD_BYTES:
            raise ValueError("it has no record of its steps")
        with TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")
    except (MlflowException, OSError, ValueError) as error:
        raise _refused(run_id, f"is a study's, and {str(error).splitlines()[0]}") from None


def read_arm(client: MlflowClient, run_id: str) -> Arm:
    """Return a finished run of a stage that trains.

    Raises:
        UserInputError: There is no such run, it is not finished, or it trained nothing.
    """
    try:
        run = client.get_run(resolve_run_id(run_id))
    except MlflowException:
        raise _refused(run_id, "cannot be found") from None
    if run.info.status != "FINISHED":
        raise _refused(run_id, f"is {run.info.status}, and only FINISHED runs can be compared")
    if names.TEST_ACCURACY not in run.data.metrics:
        raise _refused(run_id, "trained nothing")
    return _arm(client, run)


def newest_arm(client: MlflowClient, stage: str, *, like: Arm | None = None) -> Arm | None:
    """Return the newest finished run of a stage in the active experiment, alike in data, classes, labels and seed."""
    found = client.search_runs(
        [active_experiment_id()],
        f"attributes.status = 'FINISHED' and tags.{names.STAGE} = '{stage}'",
        max_results=SEARCHED_RUNS,
        order_by=["attributes.end_time DESC"],
    )
    for run in found:
        if like is None or (
            all(run.data.tags.get(name) == like.tags.get(name) for name in (names.DATASET, names.CLASSES))
            and all(run.data.params.get(name) == like.params.get(name) for name in ("per_class", "seed"))
        ):
            return _arm(client, run)
    return None


def _arm(client: MlflowClient, run: Run) -> Arm:
    curves = {}
    for name in CURVES:
        points = sorted(client.get_metric_history(run.info.run_id, name), key=lambda point: int(point.step))
        curves[name] = [float(point.value) for point in points]
    stage = run.data.tags.get(names.STAGE, "")
    return Arm(
        run.info.run_id, run.info.run_name, stage, dict(run.data.tags), dict(run.data.params),
        dict(run.data.metrics), curves,
    )  # fmt: skip


def read_best_setting(client: MlflowClient, run_id: str) -> dict[str, Any]:
    """Return the best setting that a tune run found.

    Raises:
        UserInputError: There is no such run, or it has none.
    """
    try:
        sizes = {item.path: item.file_size or 0 for item in client.list_artifacts(run_id)}
        if sizes.get(names.BEST_SETTING, MAX_SETTING_BYTES + 1) > MAX_SETTING_BYTES:
            raise ValueError("it has no best setting")
        with TemporaryDirectory() as folder:
            path = Path(client.download_artifacts(run_id, names.BEST_SETTING, folder))
            if path.stat().st_size > MAX_SETTING_BYTES:
                raise ValueError("its best setting is too large")
            found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("its best setting is damaged")
    except (MlflowException, OSError, ValueError, RecursionError) as error:
        why = str(error).splitlines()[0]
        raise UserInputError(
            Fault("params_from", run_id, f"cannot be used: {why}.", "Name a finished tune run.")
        ) from None
    return found


def _refused(run_id: str, why: str) -> UserInputError:
    return UserInputError(Fault("runs", run_id, f"{why}.", "Name finished runs, separated by commas."))
