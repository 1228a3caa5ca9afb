"""Send journal entries to an MLflow store; sending an entry twice has no further effect."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.utils import chunk_list
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from pipeline.redaction import first_line
from pipeline.tracking import names
from pipeline.tracking.claims import Claim, ClaimLostError
from pipeline.tracking.outbox.journal import Entry
from pipeline.tracking.outbox.local_state import record_alias, resolve_run_id, resolve_run_ids, run_id_of
from pipeline.tracking.outbox.model_upload import register_model, upload_model

MAX_METRICS, MAX_PARAMS, MAX_TAGS = 900, 90, 90  # MLflow's limits per batch: 1,000 items, 100 parameters, 100 tags
PERMANENT_CODES = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
MAX_ATTEMPTS = 3  # a conflict of two writers can look like a bad request
REJECTED = "refused.jsonl"
KINDS_WITH_RUN_IDS = ("tags", "params", "base", "create")
LOCAL_KINDS = ("opened", "restored", "again")  # not uploaded, only read when the run is resumed


class NotYetError(RuntimeError):
    """An entry refers to something that is not uploaded yet; a later attempt will succeed."""


class Sender:
    """Uploads the entries of one run; entries that the store rejects are written to a file in the run's local state."""

    def __init__(self, client: MlflowClient, run_id: str, folder: Path, *, claim: Claim | None = None):
        self.client, self.run_id, self.folder, self._claim = client, resolve_run_id(run_id), folder, claim
        self.rejected: list[str] = []  # one message per entry rejected for good; others are retried until they succeed
        self.messages: list[str] = []  # results of the upload to show to the user
        self.model_uri = ""  # models:/m-... once the run's model is uploaded
        self._local_run_id = run_id
        self._failure_counts: Counter[str] = Counter()  # first entry of a group -> rejections
        self._quarantine: set[str] = set()
        self._senders: dict[str, Callable[[list[Entry]], None]] = {
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
        }

    def send(self, entries: list[Entry]) -> None:
        """Send entries in order, those of one kind together; raise any error after which a retry may succeed.

        Nothing is sent for a step that another process has taken over.
        """
        for kind, group in groupby(entries, key=lambda entry: str(entry["kind"])):
            if self._claim is not None:
                try:
                    self._claim.check()
                except ClaimLostError:
                    return
            members = [entry for entry in group if not self._quarantine or json.dumps(entry) not in self._quarantine]
            if members and kind not in LOCAL_KINDS:
                self._send_group(kind, members)

    def report_damaged(self, message: str) -> None:
        """Record a journal line that cannot be read."""
        self.rejected.append(message)

    def _send_group(self, kind: str, members: list[Entry], *, isolating: bool = False) -> None:
        """Send entries of one kind; after repeated rejections, bisect to quarantine only the rejected ones."""
        try:
            if kind not in self._senders:
                raise MlflowException("unknown kind of journal entry", INVALID_PARAMETER_VALUE)
            resolved = json.loads(resolve_run_ids(json.dumps(members))) if kind in KINDS_WITH_RUN_IDS else members
            self._senders[kind](resolved)
        except (MlflowException, FileNotFoundError, KeyError, TypeError) as error:
            if not _is_permanent(error):
                raise
            first = json.dumps(members[0])
            self._failure_counts[first] += 1
            if not isolating and self._failure_counts[first] < MAX_ATTEMPTS:
                raise
            if len(members) == 1:
                self._reject(members[0], error)
                return
            half = len(members) // 2
            for part in (members[:half], members[half:]):
                self._send_group(kind, part, isolating=True)

    def _reject(self, entry: Entry, error: Exception) -> None:
        reason = f"{entry['kind']}: {first_line(error)}"
        if reason not in self.rejected:
            self.rejected.append(reason)
        self._quarantine.add(json.dumps(entry))
        with (self.folder / REJECTED).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"why": reason, **entry}) + "\n")

    def _send_creation(self, entries: list[Entry]) -> None:
        """Create a run that started while the store was unreachable, unless an earlier attempt did."""
        (entry,) = entries
        if self.run_id != self._local_run_id:
            return
        condition = f"tags.{names.LOCAL_RUN_ID} = '{self._local_run_id}'"
        runs = list(self.client.search_runs([entry["experiment_id"]], condition))
        if not runs:
            tags = {**entry["tags"], names.LOCAL_RUN_ID: self._local_run_id}
            runs = [self.client.create_run(entry["experiment_id"], entry["start_time"], tags, entry["name"])]
        self.run_id = runs[0].info.run_id
        record_alias(self._local_run_id, self.run_id)

    def _send_metrics(self, entries: list[Entry]) -> None:
        self._log_batches("metrics", [Metric(*point) for entry in entries for point in entry["metrics"]], MAX_METRICS)

    def _send_params(self, entries: list[Entry]) -> None:
        params = [Param(name, value) for entry in entries for name, value in entry["params"].items()]
        self._log_batches("params", params, MAX_PARAMS)

    def _send_tags(self, entries: list[Entry]) -> None:
        latest = {name: value for entry in entries for name, value in entry["tags"].items()}
        self._log_batches("tags", [RunTag(name, value) for name, value in latest.items()], MAX_TAGS)

    def _log_batches(self, kind: str, items: Sequence[Metric | Param | RunTag], size: int) -> None:
        for batch in chunk_list(items, size):  # type: ignore[no-untyped-call]
            self.client.log_batch(self.run_id, **{kind: batch}, synchronous=True)

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
            if uri.startswith("runs:/"):  # the base was not uploaded yet when this entry was logged
                base_run_id = run_id_of(uri)
                uri = self.client.get_run(base_run_id).data.tags.get(names.MODEL_URI, "")
                if not uri:
                    raise NotYetError(f"the model of base run {base_run_id} is not uploaded yet")
                self.client.set_tag(self.run_id, names.BASE_MODEL_URI, uri)
            self.client.log_inputs(self.run_id, models=[LoggedModelInput(uri.removeprefix("models:/"))])

    def _send_files(self, entries: list[Entry]) -> None:
        for entry in entries:
            path, folder = Path(entry["path"]), entry["folder"] or None
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist")
            if path.is_dir():
                self.client.log_artifacts(self.run_id, str(path), folder)
            else:
                self.client.log_artifact(self.run_id, str(path), folder)

    def _send_models(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.model_uri = upload_model(self.client, self.run_id, folder=self.folder, entry=entry)

    def _send_registrations(self, entries: list[Entry]) -> None:
        for entry in entries:
            uri = self.model_uri or self.client.get_run(self.run_id).data.tags[names.MODEL_URI]
            name, val_accuracy = str(entry["name"]), float(entry["val_accuracy"])
            self.messages.append(register_model(self.client, self.run_id, uri, name=name, val_accuracy=val_accuracy))

    def _send_status(self, entries: list[Entry]) -> None:
        last = entries[-1]
        if last["status"] == "RUNNING":
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            self.client.set_terminated(self.run_id, last["status"], last["end_time"])


def _is_permanent(error: Exception) -> bool:
    """Return whether a retry cannot succeed: MLflow itself rejected the entry, not a proxy or the connection."""
    if not isinstance(error, MlflowException):
        return True
    return error.error_code in PERMANENT_CODES and (
        isinstance(error, RestException) or "API request to" not in str(error)
    )
