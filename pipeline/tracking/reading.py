"""Reading finished runs back: what reports and comparisons are made from."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.errors import Fault, UserInputError
from pipeline.tracking import names
from pipeline.tracking.store import active_experiment_id

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


def read_arm(client: MlflowClient, run_id: str) -> Arm:
    """Return a finished run of a stage that trains.

    Raises:
        UserInputError: There is no such run, it is not finished, or it trained nothing.
    """
    try:
        run = client.get_run(run_id)
    except MlflowException:
        raise _refused(run_id, "cannot be found") from None
    if run.info.status != "FINISHED":
        raise _refused(run_id, f"is {run.info.status}, and only FINISHED runs can be compared")
    if names.TEST_ACCURACY not in run.data.metrics:
        raise _refused(run_id, "trained nothing")
    return _arm(client, run)


def newest_arm(client: MlflowClient, stage: str, *, like: Arm | None = None) -> Arm | None:
    """Return the newest finished run of a stage in the active experiment, alike in data, classes, labels and seed."""
    query = f"attributes.status = 'FINISHED' and tags.{names.STAGE} = '{stage}'"
    if like is not None:
        for tag in (names.DATASET, names.CLASSES):
            query += f" and tags.{tag} = '{like.tags[tag]}'"
        for param in ("per_class", "seed"):
            query += f" and params.{param} = '{like.params[param]}'"
    found = client.search_runs([active_experiment_id()], query, max_results=1, order_by=["attributes.end_time DESC"])
    return _arm(client, found[0]) if found else None


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


def _refused(run_id: str, why: str) -> UserInputError:
    return UserInputError(Fault("runs", run_id, f"{why}.", "Name finished runs, separated by commas."))
