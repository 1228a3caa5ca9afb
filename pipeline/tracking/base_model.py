"""Base models: load one, check it, and rebuild its network without unpickling.

Models and their tags are untrusted input: `model_import` validates the files, and together they must have the digest
stored in the tracking store. A base that is not uploaded yet is loaded from the local state of its run.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from torch import Tensor

from pipeline.networks.build import architecture_digest, weights_digest
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.origins.source import ModelSource
from pipeline.params import is_dataset
from pipeline.params.data import NO_DATASET, format_class_names
from pipeline.redaction import first_line
from pipeline.tracking import names
from pipeline.tracking.model_import import MAX_BYTES, download_files, invalid_base, read_identities, rebuild
from pipeline.tracking.outbox.journal import logged_entries
from pipeline.tracking.outbox.local_state import resolve_run_id, run_folder, run_id_of

MAX_CLASSES_SHOWN = 200  # characters


@dataclass(frozen=True)
class Base:
    """A validated base model.

    Attributes:
        model_uri: `models:/m-...`, or `runs:/ID/model` if it is not uploaded yet.
        stage: The stage that trained it.
        network: On the CPU, in evaluation mode.
        digest: Digest of its weights.
        classes: Class names, in the order of the logits.
        train_ids: int64, identities of its training images.
        val_ids: int64, identities of its validation images.
        seen_ids: int64, identities of all images that it or any of its ancestors was trained on.
        params: Resolved parameters of its run.
        test_accuracy: As logged by its run.
        why: Why it was selected, and its test accuracy.
        source: The user's own code, if that built the network.
    """

    model_uri: str
    run_id: str
    stage: str
    dataset: str
    classes: tuple[str, ...]
    network: LayeredNetwork
    digest: str
    train_ids: Tensor
    val_ids: Tensor
    seen_ids: Tensor
    params: dict[str, str]
    test_accuracy: float
    why: str
    source: ModelSource | None = None

    @property
    def is_imported(self) -> bool:
        """Whether it was trained elsewhere, so that its training images are unknown."""
        return self.stage == "import_base"

    @property
    def key_inputs(self) -> dict[str, str]:
        """What its outputs depend on, for cache keys: weights, and architecture with preprocessing and user code."""
        return {"base": self.digest, "base_architecture": architecture_digest(self.network.architecture)}

    @property
    def ancestry(self) -> str:
        """One line: model, run, stage, dataset and classes."""
        classes = shorten(format_class_names(self.classes), MAX_CLASSES_SHOWN, placeholder=" ...")
        return f"base {self.model_uri} of run {self.run_id} ({self.stage}, {self.dataset} {classes})"


@dataclass(frozen=True)
class _ModelRecord:
    """Metadata of a model and the run that trained it, from the store or the journal of the run."""

    reference: str  # as written by the user, for error messages
    uri: str
    run_id: str
    run_tags: Mapping[str, str]
    run_metrics: Mapping[str, float]
    tags: Mapping[str, str]

    def load(self, files: dict[str, Path], why: str, source: ModelSource | None) -> Base:
        """Rebuild the model; raise UserInputError if its files are damaged or do not have the logged digest."""
        if self.tags.get(names.DATASET) != NO_DATASET and not is_dataset(self.tags.get(names.DATASET, "")):
            raise invalid_base(self.reference, "not a model of this project: its dataset tag is invalid.")
        network = rebuild(files, self.reference, source)
        identities = read_identities(files[names.IDENTITIES_FILE], self.reference)
        digest, logged = model_digest(network, identities), self.tags[names.MODEL_DIGEST]
        if digest != logged:
            raise invalid_base(self.reference, f"altered: its files have digest {digest}, but {logged} was logged.")
        accuracy = self.run_metrics.get(names.TEST_ACCURACY, math.nan)
        scored = "" if math.isnan(accuracy) else f", test accuracy {100 * accuracy:.2f} %"
        return Base(
            model_uri=self.uri,
            run_id=self.run_id,
            stage=self.run_tags.get(names.STAGE, ""),
            dataset=self.tags[names.DATASET],
            classes=network.architecture.classes,
            network=network.eval(),
            digest=weights_digest(network.state_dict()),
            train_ids=identities["train"],
            val_ids=identities["validation"],
            seen_ids=identities["seen"],
            params=self._params(),
            test_accuracy=accuracy,
            why=f"{why}{scored}",
            source=source if network.architecture.family == "own" else None,
        )

    def _params(self) -> dict[str, str]:
        """Return the parameters stored in a tag of the run."""
        try:
            params = json.loads(self.run_tags.get(names.PARAMETERS, "{}"))
        except (ValueError, RecursionError):
            params = None
        if not isinstance(params, dict) or not all(isinstance(value, str) for value in params.values()):
            raise invalid_base(self.reference, "the parameters of its run are unreadable.")
        if not re.fullmatch(r"all|\d{1,6}", params.get("per_class", "all")):
            raise invalid_base(self.reference, "per_class of its run must be all or an integer.")
        return params


def load_base(client: MlflowClient, reference: str, source: ModelSource | None = None) -> Base:
    """Return the base given by a model URI, a registered model or a run id.

    Args:
        client: Of the tracking store.
        reference: As the user gave it.
        source: The user's own code, where the user has named it in this command.

    Raises:
        UserInputError: It does not exist, is not ready, is not a model of this project, or its files are damaged.
    """
    if (pending := _load_pending(reference, source)) is not None:
        return pending
    try:
        model = client.get_logged_model(_model_id(client, reference))
    except MlflowException as error:
        raise invalid_base(reference, f"not found: {first_line(error)}.") from None
    return load_logged(client, model, reference, why="as requested", source=source)


def model_digest(network: LayeredNetwork, identities: Mapping[str, Tensor]) -> str:
    """Return one digest over everything that later stages read: weights, architecture, image identities."""
    parts = (
        weights_digest(network.state_dict()),
        network.architecture.model_dump_json(),
        weights_digest(dict(identities)),
    )
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]


def _model_id(client: MlflowClient, reference: str) -> str:
    """Return the id of the logged model that a reference of any form points to."""
    name = reference.removeprefix("models:/")
    if reference.startswith("models:/m-"):
        return name
    if reference.startswith("models:/"):
        if "@" in name:
            version = client.get_model_version_by_alias(*name.split("@", 1))
        else:
            version = client.get_model_version(*name.rsplit("/", 1))
        return str(version.source).removeprefix("models:/")
    uri = client.get_run(resolve_run_id(run_id_of(reference))).data.tags.get(names.MODEL_URI)
    if uri is None:
        raise invalid_base(reference, "this run has no model.")
    return str(uri).removeprefix("models:/")


def load_logged(
    client: MlflowClient, model: LoggedModel, reference: str, *, why: str, source: ModelSource | None = None
) -> Base:
    """Download and load a logged model."""
    if str(model.status) != "READY":
        raise invalid_base(reference, f"not ready: its status is {model.status}.")
    if names.MODEL_DIGEST not in model.tags or model.source_run_id is None:
        raise invalid_base(reference, f"not a model of this project: no {names.MODEL_DIGEST} tag.")
    try:
        run = client.get_run(str(model.source_run_id))
    except MlflowException as error:
        raise invalid_base(reference, f"its run was not found: {first_line(error)}.") from None
    uri = f"models:/{model.model_id}"
    record = _ModelRecord(reference, uri, run.info.run_id, run.data.tags, run.data.metrics, model.tags)
    with TemporaryDirectory() as folder:
        return record.load(download_files(client, model, reference, folder=Path(folder)), why, source)


def _load_pending(reference: str, source: ModelSource | None) -> Base | None:
    """Load the model of a run from local state if it is not uploaded yet; None if it is, or for other references."""
    if reference.startswith("models:/"):
        return None
    run_id = run_id_of(reference)
    folder = run_folder(run_id)
    if (folder / names.MODEL_URI).exists():
        return None
    entries = logged_entries(folder)
    model = next((entry for entry in reversed(entries) if entry["kind"] == "model"), None)
    if model is None:
        return None
    run_tags = {name: value for entry in entries if entry["kind"] == "tags" for name, value in entry["tags"].items()}
    metrics = {str(name): float(value) for name, value, _, _ in model["metrics"]}
    files = {name: folder / names.MODEL / names.EXTRA_FILES / name for name in MAX_BYTES}
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise invalid_base(reference, f"incomplete: no {', '.join(missing)} in {folder / names.MODEL}.")
    uri = f"runs:/{run_id}/{names.MODEL}"
    record = _ModelRecord(reference, uri, run_id, run_tags, metrics, model["tags"])
    return record.load(files, "from local state, not uploaded yet", source)
