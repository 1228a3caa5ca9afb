"""Finding a base model, checking it, and rebuilding its network without unpickling anything.

A model may come from anyone, and so may its tags: `handover.py` reads its files, and all of them together must have
the digest that the tracking store holds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run
from mlflow.exceptions import MlflowException
from torch import Tensor

from pipeline.errors import UserInputError
from pipeline.networks.build import weights_digest
from pipeline.networks.layered import LayeredNetwork
from pipeline.params import Family, format_classes, is_dataset, parse_classes
from pipeline.tracking import names
from pipeline.tracking.model_import import MAX_BYTES, download_files, first_line, read_draw, rebuild, refused
from pipeline.tracking.outbox.local_state import resolve_run_id
from pipeline.tracking.pending_model import PendingModel, pending_model, run_id_of
from pipeline.tracking.store import active_experiment_id

BASE_STAGES = ("train_base", "tune")
SEARCHED_RUNS = 1000


@dataclass(frozen=True)
class Base:
    """A base model, checked and rebuilt.

    Attributes:
        model_uri: `models:/m-...`.
        run_id: The run that made it.
        stage: The stage that made it.
        dataset: What it was trained on.
        classes: The classes it tells apart.
        network: On the CPU, in evaluation mode.
        digest: Of its weights.
        train_indices: int64, the places in the official training part of the images it was trained on.
        val_indices: int64, likewise of those it was validated on.
        seen_indices: int64, those that it or any base before it was trained on.
        params: Of its run, resolved.
        test_accuracy: As its run logged it.
        why: How it was chosen, in words.
    """

    model_uri: str
    run_id: str
    stage: str
    dataset: str
    classes: tuple[int, ...]
    network: LayeredNetwork
    digest: str
    train_indices: Tensor
    val_indices: Tensor
    seen_indices: Tensor
    params: dict[str, str]
    test_accuracy: float
    why: str

    @property
    def ancestry(self) -> str:
        """One line: which run, which data, which classes."""
        return (
            f"base {self.model_uri} of run {self.run_id} ({self.stage}, {self.dataset} {format_classes(self.classes)})"
        )


def load_base(client: MlflowClient, reference: str) -> Base:
    """Return the base that a model URI, a registered model or a run id names.

    Raises:
        UserInputError: It does not exist, is not ready, is not a model of this project, or its files are damaged.
    """
    if (pending := pending_model(reference)) is not None:
        return _load_pending(pending, reference)
    try:
        model = client.get_logged_model(_model_id(client, reference))
    except MlflowException as error:
        raise refused(reference, f"cannot be found: {first_line(error)}") from None
    return _load(client, model, reference, "as asked for")


def find_base(
    client: MlflowClient,
    *,
    family: Family,
    dataset: str,
    image_shape: tuple[int, ...],
    classes: tuple[int, ...],
    depth: int,
    passed_over: Callable[[str], None],
) -> Base | None:
    """Return the newest finished base of the active experiment that fits a target, or None.

    Args:
        client: Of the store.
        family: `mlp` or `cnn`.
        dataset: Its resolved name.
        image_shape: (C, H, W).
        classes: The target's; the base's must be disjoint from them.
        depth: The blocks it must at least have.
        passed_over: Told of a base that would fit but whose files are not there or damaged.
    """
    found: list[Run] = []
    for stage in BASE_STAGES:
        found += client.search_runs(
            [active_experiment_id()],
            f"attributes.status = 'FINISHED' and tags.{names.STAGE} = '{stage}'",
            max_results=SEARCHED_RUNS,
            order_by=["attributes.end_time DESC"],
        )
    wanted = {"family": family, names.DATASET: dataset, "image_shape": ",".join(map(str, image_shape))}
    for run in sorted(found, key=lambda run: -(run.info.end_time or 0)):
        model = ready_model(client, run.data.tags.get(names.MODEL_URI, ""))
        if model is None or any(model.tags.get(name) != value for name, value in wanted.items()):
            continue
        reference = f"models:/{model.model_id}"
        try:
            own, own_depth = _claims(model, reference)
            if own_depth < depth or set(own) & set(classes):
                continue
            return _load(client, model, reference, f"the newest finished {family} base on {dataset} with other classes")
        except UserInputError as error:
            passed_over(f"passed over: {error}")
    return None


def ready_model(client: MlflowClient, uri: str) -> LoggedModel | None:
    """Return the model behind `models:/m-...` if it is there and ready."""
    try:
        model = client.get_logged_model(uri.removeprefix("models:/")) if uri else None
    except MlflowException:
        return None
    return model if model is not None and str(model.status) == "READY" else None


def model_is_whole(client: MlflowClient, uri: str) -> bool:
    """Whether a logged model is ready and the files that later stages read are there."""
    model = ready_model(client, uri)
    if model is None:
        return False
    try:
        listed = client.list_logged_model_artifacts(model.model_id, names.EXTRA_FILES)
    except (MlflowException, OSError):
        return False
    return set(MAX_BYTES) <= {item.path.rsplit("/", 1)[-1] for item in listed}


def _model_id(client: MlflowClient, reference: str) -> str:
    """Return the id of the logged model behind any kind of reference."""
    if reference.startswith("models:/m-"):
        return reference.removeprefix("models:/")
    if reference.startswith("models:/"):
        name = reference.removeprefix("models:/")
        if "@" in name:
            version = client.get_model_version_by_alias(*name.split("@", 1))
        else:
            version = client.get_model_version(*name.rsplit("/", 1))
        return str(version.source).removeprefix("models:/")
    run_id = resolve_run_id(run_id_of(reference))
    uri = client.get_run(run_id).data.tags.get(names.MODEL_URI)
    if uri is None:
        raise refused(reference, "is a run without a model")
    return str(uri).removeprefix("models:/")


def _claims(model: LoggedModel, reference: str) -> tuple[tuple[int, ...], int]:
    """Return the classes and the depth that a model's tags claim."""
    try:
        return parse_classes(model.tags[names.CLASSES]), int(model.tags["depth"])
    except (KeyError, ValueError):
        raise refused(reference, "was not made by this project: its tags do not say its classes and depth") from None


def _load(client: MlflowClient, model: LoggedModel, reference: str, why: str) -> Base:
    """Read and check a model's files, and rebuild its network."""
    if str(model.status) != "READY":
        raise refused(reference, f"is not ready: its status is {model.status}")
    if names.MODEL_DIGEST not in model.tags or model.source_run_id is None:
        raise refused(reference, "was not made by this project: it lacks the digest of its files")
    with TemporaryDirectory() as folder:
        network, draw = _checked(download_files(client, model, reference, Path(folder)), model.tags, reference)
    run = _run_of(client, model, reference)
    return _base(
        f"models:/{model.model_id}",
        run.info.run_id,
        run.data.tags,
        model.tags,
        run.data.metrics,
        network,
        draw,
        why,
        reference,
    )


def _load_pending(pending: PendingModel, reference: str) -> Base:
    """Read a model from the local state of its run, which has not been delivered yet; it is checked all the same."""
    files = {name: pending.files / names.EXTRA_FILES / name for name in MAX_BYTES}
    missing = [name for name, path in files.items() if not path.is_file()]
    if missing:
        raise refused(reference, f"is pending, and incomplete: {pending.files} lacks {', '.join(missing)}")
    network, draw = _checked(files, pending.model_tags, reference)
    why = "from local state, since its delivery is pending"
    uri = f"runs:/{pending.run_id}/{names.MODEL}"
    return _base(
        uri, pending.run_id, pending.run_tags, pending.model_tags, pending.metrics, network, draw, why, reference
    )


def _checked(
    files: dict[str, Path], tags: Mapping[str, str], reference: str
) -> tuple[LayeredNetwork, dict[str, Tensor]]:
    """Rebuild a model's network and read its draw; refuse files that are not those whose digest was logged."""
    if not is_dataset(tags.get(names.DATASET, "")):
        raise refused(reference, "was not made by this project: its tag does not name a data set")
    network = rebuild(files, reference)
    draw = read_draw(files[names.DRAW_FILE], reference)
    found, expected = model_digest(network, draw), tags[names.MODEL_DIGEST]
    if found != expected:
        raise refused(reference, f"was altered: its files have the digest {found}, {expected} was logged")
    return network, draw


def _base(
    uri: str,
    run_id: str,
    run_tags: Mapping[str, str],
    model_tags: Mapping[str, str],
    metrics: Mapping[str, float],
    network: LayeredNetwork,
    draw: Mapping[str, Tensor],
    why: str,
    reference: str,
) -> Base:
    return Base(
        model_uri=uri,
        run_id=run_id,
        stage=run_tags.get(names.STAGE, ""),
        dataset=model_tags[names.DATASET],
        classes=network.architecture.classes,
        network=network.eval(),
        digest=weights_digest(network.state_dict()),
        train_indices=draw["train"].long(),
        val_indices=draw["validation"].long(),
        seen_indices=draw["seen"].long(),
        params=_params_of(run_tags, reference),
        test_accuracy=metrics.get(names.TEST_ACCURACY, float("nan")),
        why=why,
    )


def _run_of(client: MlflowClient, model: LoggedModel, reference: str) -> Run:
    try:
        return client.get_run(str(model.source_run_id))
    except MlflowException as error:
        raise refused(reference, f"names a run that cannot be found: {first_line(error)}") from None


def _params_of(run_tags: Mapping[str, str], reference: str) -> dict[str, str]:
    """Return the parameters that a run's tag holds."""
    try:
        found = json.loads(run_tags.get(names.PARAMETERS, "{}"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise refused(reference, "has a run whose parameters cannot be read")
    if not re.fullmatch(r"all|\d{1,6}", found.get("per_class", "all")):
        raise refused(reference, "has a run whose per_class is neither all nor a number")
    return found


def model_digest(network: LayeredNetwork, draw: Mapping[str, Tensor]) -> str:
    """Return one digest over everything that a later stage takes from a model: weights, description, draw."""
    parts = (weights_digest(network.state_dict()), network.architecture.model_dump_json(), weights_digest(dict(draw)))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]


def search_features(client: MlflowClient, digest: str) -> list[str]:
    """Return the finished runs of the active experiment whose features have a fingerprint's digest, newest first."""
    found = client.search_runs(
        [active_experiment_id()],
        f"attributes.status = 'FINISHED' and tags.{names.FEATURES_FINGERPRINT} = '{digest}'",
        max_results=10,
        order_by=["attributes.end_time DESC"],
    )
    return [run.info.run_id for run in found]
