"""Taking a model that lies on disk to the store: created, uploaded, finalized, attached, registered; each step once.

Any step may be the last one before a crash or a lost connection. So each looks for what an earlier attempt has
left before it makes anything.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.tracking import names
from pipeline.tracking.outbox.journal import Entry

UNFINISHED = ("READY", "PENDING")


def upload_model(client: MlflowClient, run_id: str, folder: Path, entry: Entry) -> str:
    """Make a run's logged model from `folder/model`, or complete the one that is under way; return its URI.

    Args:
        client: Of the store.
        run_id: The run whose model it is.
        folder: The run's local state.
        entry: What `model.log_model` has put into the journal.
    """
    files = folder / names.MODEL
    if not files.is_dir():
        raise FileNotFoundError(f"{files} is gone")
    run = client.get_run(run_id)
    logged = _begun(client, run.info.experiment_id, run_id, entry["tags"][names.MODEL_DIGEST])
    if logged is None:
        logged = client.create_logged_model(
            run.info.experiment_id,
            name=names.MODEL,
            source_run_id=run_id,
            model_type=entry["tags"][names.STAGE],
            tags=entry["tags"],
            params=run.data.params,
        )
    if str(logged.status) != "READY":
        _write_ids(files, {"model_id": logged.model_id, "run_id": run_id})
        client.log_model_artifacts(logged.model_id, str(files))
        client.finalize_logged_model(logged.model_id, "READY")
    outputs = run.outputs.model_outputs if run.outputs else []
    if logged.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    # a copy of the run's final metrics, so that the UI's model page and comparison show them
    points = [
        Metric(name, value, at, step, model_id=logged.model_id, run_id=run_id)
        for name, value, at, step in entry["metrics"]
    ]
    client.log_batch(run_id, metrics=points, synchronous=True)
    uri = f"models:/{logged.model_id}"
    client.set_tag(run_id, names.MODEL_URI, uri)
    (folder / names.MODEL_URI).write_text(uri, encoding="ascii")
    return uri


def _begun(client: MlflowClient, experiment_id: str, run_id: str, digest: str) -> LoggedModel | None:
    """Return the model that an earlier attempt has made, the ready one first; delete what a lost answer has doubled."""
    found = [
        model
        for model in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
        if model.tags.get(names.MODEL_DIGEST) == digest and str(model.status) in UNFINISHED
    ]
    found.sort(key=lambda model: (str(model.status) != "READY", model.creation_timestamp))
    for surplus in found[1:]:
        client.delete_logged_model(surplus.model_id)
    return found[0] if found else None


def _write_ids(files: Path, ids: dict[str, str]) -> None:
    """Complete the model's own description with what is not known when it is saved."""
    path = files / "MLmodel"
    described = yaml.safe_load(path.read_text(encoding="utf-8"))
    beside = path.with_name(".MLmodel")
    beside.write_text(yaml.safe_dump({**described, **ids}), encoding="utf-8")
    beside.replace(path)


def register_model(client: MlflowClient, run_id: str, model_uri: str, entry: Entry) -> str:
    """Register a model and see to it that the version with the highest validation accuracy has the alias `best`.

    Returns:
        One line that says what became of it.
    """
    name, val_accuracy = str(entry["name"]), float(entry["val_accuracy"])
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = _version(client, run_id, model_uri, name, val_accuracy)
    best = _move_alias(client, name)
    registered = f"registered as {name} version {version}"
    if str(best.version) == version:
        return f"{registered}, which now has the alias best ({val_accuracy:.4f} on validation)"
    return f"{registered}; alias best stays with version {best.version} ({_val_accuracy(best):.4f} on validation)"


def _move_alias(client: MlflowClient, name: str) -> ModelVersion:
    """Give the alias `best` to the version with the highest validation accuracy, and return it.

    Others may register at the same time, and the alias cannot be compared and set at once: so whoever has set it
    looks again.
    """
    while True:
        best = max(_versions(client, name), key=_val_accuracy)
        try:
            holder = client.get_model_version_by_alias(name, "best")
        except MlflowException as error:
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                raise
        else:
            if _val_accuracy(holder) >= _val_accuracy(best):
                return holder
        client.set_registered_model_alias(name, "best", best.version)


def _val_accuracy(version: ModelVersion) -> float:
    """Return the validation accuracy that a version was registered with; minus infinity for somebody else's."""
    return float(version.tags.get(names.VAL_FINAL_ACCURACY, "-inf"))


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    quoted = name.replace("'", "''")
    return list(client.search_model_versions(f"name = '{quoted}'"))


def _version(client: MlflowClient, run_id: str, model_uri: str, name: str, val_accuracy: float) -> str:
    """Return the version that an earlier attempt has made of this model, else make one."""
    for version in _versions(client, name):
        if version.run_id == run_id and version.source == model_uri:
            return str(version.version)
    created = client.create_model_version(
        name,
        model_uri,
        run_id=run_id,
        model_id=model_uri.removeprefix("models:/"),
        tags={names.VAL_FINAL_ACCURACY: repr(val_accuracy)},
    )
    return str(created.version)
