"""Sending journal entries to an MLflow store, so that sending one twice does no harm."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
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

from pipeline.tracking import names
from pipeline.tracking.outbox import model_upload
from pipeline.tracking.outbox.journal import Entry
from pipeline.tracking.outbox.local_state import record_alias, resolve_run_id, resolve_run_ids

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
ATTEMPTS = 3  # a clash of two writers looks like a bad request, once
REFUSED = "refused.jsonl"


class NotYetError(RuntimeError):
    """What an entry refers to has not arrived itself; trying again later will help."""


class Sender:
    """Delivers the entries of one run.

    Args:
        client: Of the store.
        run_id: The run.
        folder: The run's local state, where what the store will never take is kept.

    Attributes:
        refused: What the store will never take, in words; everything else is sent again until it arrives.
        model_uri: `models:/m-...` once the run's model has arrived.
        news: What was found on delivery and is worth telling, in words.
    """

    def __init__(self, client: MlflowClient, run_id: str, folder: Path):
        self.client, self.run_id, self.folder = client, resolve_run_id(run_id), folder
        self._own_id = run_id
        self.refused: list[str] = []
        self.messages: list[str] = []
        self.model_uri = ""
        self._doubts: Counter[str] = Counter()  # how often what begins with an entry has been refused
        self._aside: set[str] = set()
        self._translated = ("tags", "params", "base", "create")
        self._kinds: dict[str, Callable[[list[Entry]], None]] = {
            "create": self._send_creation,
            "metrics": self._send_metrics,
            "params": self._send_params,
            "tags": self._send_tags,
            "dataset": self._send_datasets,
            "base": self._send_bases,
            "file": self._send_files,
            "model": self._send_models,
            "register": self._send_registrations,
            "status": self._send_status,
            "opened": _send_nothing,
            "restored": _send_nothing,
            "again": _send_nothing,
        }

    def __call__(self, entries: list[Entry]) -> None:
        """Send entries in order, neighbours of one kind together.

        Raises:
            Exception: Whatever the client raises, where trying again later may help.
        """
        for kind, group in groupby(entries, key=lambda entry: str(entry["kind"])):
            wanted = [entry for entry in group if not self._aside or json.dumps(entry) not in self._aside]
            if wanted:
                self._send(kind, wanted)

    def note_damaged(self, where: str) -> None:
        """Take note of a line of the journal that cannot be read."""
        self.refused.append(where)

    def _send(self, kind: str, members: list[Entry], *, again: bool = False) -> None:
        """Send entries of one kind; what the store refuses several times over is set aside, one by one."""
        try:
            if kind not in self._kinds:
                raise MlflowException("not an entry that this version knows", INVALID_PARAMETER_VALUE)
            known = json.loads(resolve_run_ids(json.dumps(members))) if kind in self._translated else members
            self._kinds[kind](known)
        except (MlflowException, FileNotFoundError, KeyError, TypeError) as error:
            if not _is_final(error):
                raise
            begin = json.dumps(members[0])
            self._doubts[begin] += 1
            if not again and self._doubts[begin] < ATTEMPTS:
                raise
            if len(members) == 1:
                self._set_aside(members[0], error)
                return
            half = len(members) // 2
            for part in (members[:half], members[half:]):
                self._send(kind, part, again=True)

    def _set_aside(self, entry: Entry, error: Exception) -> None:
        why = f"{entry['kind']}: {(str(error).splitlines() or [''])[0]}"
        if why not in self.refused:
            self.refused.append(why)
        self._aside.add(json.dumps(entry))
        with (self.folder / REFUSED).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"why": why, **entry}) + "\n")

    def _send_creation(self, entries: list[Entry]) -> None:
        """Make a run that was begun while the store did not answer, unless an earlier attempt has."""
        (entry,) = entries
        if self.run_id != self._own_id:
            return
        mark = f"tags.{names.LOCAL_RUN_ID} = '{self._own_id}'"
        found = list(self.client.search_runs([entry["experiment_id"]], mark))
        if not found:
            tags = {**entry["tags"], names.LOCAL_RUN_ID: self._own_id}
            found = [self.client.create_run(entry["experiment_id"], entry["start_time"], tags, entry["name"])]
        self.run_id = found[0].info.run_id
        record_alias(self._own_id, self.run_id)

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

    def _send_datasets(self, entries: list[Entry]) -> None:
        inputs = [
            DatasetInput(
                Dataset(entry["name"], entry["digest"], "local", entry["source"], entry["schema"], entry["profile"]),
                [InputTag(MLFLOW_DATASET_CONTEXT, entry["context"])],
            )
            for entry in entries
        ]
        self.client.log_inputs(self.run_id, inputs)

    def _send_bases(self, entries: list[Entry]) -> None:
        for entry in entries:
            uri = str(entry["model_uri"])
            if uri.startswith("runs:/"):  # its own model was on its way when this was logged
                base_run_id = uri.removeprefix("runs:/").split("/")[0]
                uri = self.client.get_run(base_run_id).data.tags.get(names.MODEL_URI, "")
                if not uri:
                    raise NotYetError(f"the model of the base, run {base_run_id}, has not arrived yet")
                self.client.set_tag(self.run_id, names.BASE_MODEL_URI, uri)
            self.client.log_inputs(self.run_id, models=[LoggedModelInput(uri.removeprefix("models:/"))])

    def _send_files(self, entries: list[Entry]) -> None:
        for entry in entries:
            path, folder = Path(entry["path"]), entry["folder"] or None
            if not path.exists():
                raise FileNotFoundError(f"{path} is gone")
            if path.is_dir():
                self.client.log_artifacts(self.run_id, str(path), folder)
            else:
                self.client.log_artifact(self.run_id, str(path), folder)

    def _send_models(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.model_uri = model_upload.upload_model(self.client, self.run_id, self.folder, entry)

    def _send_registrations(self, entries: list[Entry]) -> None:
        for entry in entries:
            uri = self.model_uri or self.client.get_run(self.run_id).data.tags[names.MODEL_URI]
            self.messages.append(model_upload.register_model(self.client, self.run_id, uri, entry))

    def _send_status(self, entries: list[Entry]) -> None:
        last = entries[-1]
        if last["status"] == "RUNNING":
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            self.client.set_terminated(self.run_id, last["status"], last["end_time"])


def _send_nothing(entries: list[Entry]) -> None:
    """Some entries are for whoever resumes the run."""


def _is_final(error: Exception) -> bool:
    """Whether sending again cannot help: MLflow itself has said no, rather than something on the way to it."""
    if not isinstance(error, MlflowException):
        return True
    return error.error_code in FINAL and (isinstance(error, RestException) or "API request to" not in str(error))


def _parts(items: list[Any], size: int) -> list[list[Any]]:
    return [items[at : at + size] for at in range(0, len(items), size)]
