"""Upload a model from disk to the store: create, upload, finalize, attach to its run, register.

A crash or a lost connection may follow any of these steps, so each first looks for the result of an earlier attempt.
"""

from pathlib import Path

import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.tracking import names
from pipeline.tracking.outbox.journal import Entry

USABLE = ("READY", "PENDING")


def upload_model(client: MlflowClient, run_id: str, *, folder: Path, entry: Entry) -> str:
    """Upload a run's model from `folder/model`, or complete an earlier attempt, and return its URI."""
    files = folder / names.MODEL
    if not files.is_dir():
        raise FileNotFoundError(f"{files} does not exist")
    run = client.get_run(run_id)
    model = _earlier_attempt(client, run, entry["tags"][names.MODEL_DIGEST])
    if model is None:
        model = client.create_logged_model(
            run.info.experiment_id,
            name=names.MODEL,
            source_run_id=run_id,
            model_type=entry["tags"][names.STAGE],
            tags=entry["tags"],
            params=run.data.params,
        )
    gets_graph = entry["tags"].get(names.SERVABLE) == "true" and model.tags.get(names.SERVABLE) == "false"
    if str(model.status) != "READY" or gets_graph:
        write_ids(files, {"model_id": model.model_id, "run_id": run_id})
        client.log_model_artifacts(model.model_id, str(files))
        client.finalize_logged_model(model.model_id, "READY")
    if gets_graph:  # an earlier attempt logged weights and records only
        client.set_logged_model_tags(model.model_id, {names.SERVABLE: "true"})
    outputs = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    # a copy of the run's final metrics, for the UI's model page and comparison
    points = [
        Metric(name, value, timestamp, step, model_id=model.model_id, run_id=run_id)
        for name, value, timestamp, step in entry["metrics"]
    ]
    client.log_batch(run_id, metrics=points, synchronous=True)
    uri = f"models:/{model.model_id}"
    client.set_tag(run_id, names.MODEL_URI, uri)
    (folder / names.MODEL_URI).write_text(uri, encoding="ascii")
    return uri


def _earlier_attempt(client: MlflowClient, run: Run, digest: str) -> LoggedModel | None:
    """Return the model that an earlier attempt created, preferably a READY one, and delete duplicates of it."""
    models = [
        model
        for model in client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
        if model.tags.get(names.MODEL_DIGEST) == digest and str(model.status) in USABLE
    ]
    models.sort(key=lambda model: (str(model.status) != "READY", model.creation_timestamp))
    for duplicate in models[1:]:  # the response to its creation was lost
        client.delete_logged_model(duplicate.model_id)
    return models[0] if models else None


def write_ids(files: Path, ids: dict[str, str]) -> None:
    """Add to the model's MLmodel file the ids that were unknown when it was saved."""
    path = files / "MLmodel"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    temporary = path.with_name(".MLmodel")
    temporary.write_text(yaml.safe_dump({**content, **ids}), encoding="utf-8")
    temporary.replace(path)


def register_model(client: MlflowClient, run_id: str, model_uri: str, *, name: str, val_accuracy: float) -> str:
    """Register a model, move the alias `best` if its validation accuracy is highest, and return a one-line summary."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = _versions(client, name)
    version = next((version for version in versions if (version.run_id, version.source) == (run_id, model_uri)), None)
    if version is None:  # otherwise registered by an earlier attempt
        version = client.create_model_version(
            name,
            model_uri,
            run_id=run_id,
            model_id=model_uri.removeprefix("models:/"),
            tags={names.VAL_FINAL_ACCURACY: repr(val_accuracy)},
        )
    best = _move_alias(client, name)
    registered = f"registered as {name} version {version.version}"
    if str(best.version) == str(version.version):
        return f"{registered}, now with alias best (validation accuracy {val_accuracy:.4f})"
    return f"{registered}; alias best stays on version {best.version} (validation accuracy {_val_accuracy(best):.4f})"


def _move_alias(client: MlflowClient, name: str) -> ModelVersion:
    """Give the alias `best` to the version with the highest validation accuracy, and return that version.

    Setting an alias is not atomic and other processes may register concurrently, so the alias is read back and checked.
    """
    while True:
        best = max(_versions(client, name), key=_val_accuracy)
        try:
            current = client.get_model_version_by_alias(name, "best")
        except MlflowException as error:
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                raise
        else:
            if _val_accuracy(current) >= _val_accuracy(best):
                return current
        client.set_registered_model_alias(name, "best", best.version)


def _val_accuracy(version: ModelVersion) -> float:
    """Return a version's validation accuracy, or -inf if it was not registered by this project."""
    return float(version.tags.get(names.VAL_FINAL_ACCURACY, "-inf"))


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    escaped = name.replace("'", "''")
    return list(client.search_model_versions(f"name = '{escaped}'"))
