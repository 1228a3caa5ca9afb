"""Sending journal entries to an MLflow store, so that sending one twice does no harm."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INVALID_PARAMETER_VALUE,
    INVALID_STATE,
    PERMISSION_DENIED,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from pipeline.tracking.journal import Entry

MAX_METRICS, MAX_PARAMS, MAX_TAGS = 900, 90, 90  # a batch may hold 1,000 items in all, 100 parameters, 100 tags
_FINAL_CODES = (
    BAD_REQUEST,
    INVALID_PARAMETER_VALUE,
    INVALID_STATE,
    PERMISSION_DENIED,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
)
FINAL = {ErrorCode.Name(code) for code in _FINAL_CODES}


class Sender:
    """Delivers the entries of one run.

    Attributes:
        refused: What the store will never take, in words; everything else is sent again until it arrives.
    """

    def __init__(self, client: MlflowClient, run_id: str):
        self.client = client
        self.run_id = run_id
        self.refused: list[str] = []

    def __call__(self, entries: list[Entry]) -> None:
        """Send entries in order, neighbours of one kind together.

        Raises:
            Exception: Whatever the client raises, where trying again later may help.
        """
        for kind, group in groupby(entries, key=lambda entry: str(entry["kind"])):
            members = list(group)
            try:
                getattr(self, f"_send_{kind}")(members)
            except MlflowException as error:
                if error.error_code not in FINAL:
                    raise
                self.refused.append(f"{kind}: {str(error).splitlines()[0]}")

    def _send_metrics(self, entries: list[Entry]) -> None:
        points = [Metric(*point) for entry in entries for point in entry["metrics"]]
        for part in _parts(points, MAX_METRICS):
            self.client.log_batch(self.run_id, metrics=part, synchronous=True)

    def _send_params(self, entries: list[Entry]) -> None:
        params = [Param(name, value) for entry in entries for name, value in entry["params"].items()]
        for part in _parts(params, MAX_PARAMS):
            self.client.log_batch(self.run_id, params=part, synchronous=True)

    def _send_tags(self, entries: list[Entry]) -> None:
        latest = {name: value for entry in entries for name, value in entry["tags"].items()}
        for part in _parts([RunTag(name, value) for name, value in latest.items()], MAX_TAGS):
            self.client.log_batch(self.run_id, tags=part, synchronous=True)

    def _send_dataset(self, entries: list[Entry]) -> None:
        inputs = [
            DatasetInput(
                Dataset(entry["name"], entry["digest"], "local", entry["source"], entry["schema"], entry["profile"]),
                [InputTag(MLFLOW_DATASET_CONTEXT, entry["context"])],
            )
            for entry in entries
        ]
        self.client.log_inputs(self.run_id, inputs)

    def _send_base(self, entries: list[Entry]) -> None:
        self.client.log_inputs(self.run_id, models=[LoggedModelInput(entry["model_id"]) for entry in entries])

    def _send_file(self, entries: list[Entry]) -> None:
        for entry in entries:
            path, folder = Path(entry["path"]), entry["folder"] or None
            if path.is_dir():
                self.client.log_artifacts(self.run_id, str(path), folder)
            elif path.exists():
                self.client.log_artifact(self.run_id, str(path), folder)

    def _send_status(self, entries: list[Entry]) -> None:
        self.client.set_terminated(self.run_id, entries[-1]["status"], entries[-1]["end_time"])


def _parts(items: list[Any], size: int) -> list[list[Any]]:
    return [items[at : at + size] for at in range(0, len(items), size)]
