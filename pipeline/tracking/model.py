"""The hand-over: one logged model that can be served, cut, frozen and trained on.

Beside the servable graph (pt2) lie `weights.safetensors`, `architecture.json` and the places of the images that
it was trained and validated on. Later stages rebuild the network from these; nothing is ever unpickled.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.exceptions import MlflowException
from torch import Tensor

from pipeline.data.splits import Split
from pipeline.networks.build import weights_digest
from pipeline.networks.layered import Classifier, LayeredNetwork
from pipeline.tracking import names
from pipeline.tracking.lineage import handover_digest
from pipeline.tracking.run import ARRIVAL_LIMIT_SECONDS, StageRun

EXAMPLE_IMAGES = 2  # an export from a batch of one would serve batches of one only


@dataclass(frozen=True)
class ModelFacts:
    """What a model says of itself in its metadata, beyond its weights."""

    stage: str
    dataset: str
    classes: str
    class_names: tuple[str, ...]
    val_accuracy: float


def log_model(
    run: StageRun, network: LayeredNetwork, split: Split, facts: ModelFacts, seen_before: Tensor | None = None
) -> str:
    """Log a trained network as the run's model and return its URI, `models:/m-...`.

    Args:
        run: Its final metrics, logged before, attach to the model.
        network: With its best weights; moved to the CPU.
        split: What it was trained on.
        facts: Go into the model's metadata.
        seen_before: int64, places in the official training part of images that its base was trained on.
    """
    network.cpu().eval()
    for parameter in network.parameters():  # channels-last kernels are for training; files hold the plain order
        parameter.data = parameter.data.contiguous()
    digest = weights_digest(network.state_dict())
    draw = draw_tensors(split, seen_before)
    run.set_tags({names.WEIGHTS_DIGEST: digest})
    run.delivery.flush(ARRIVAL_LIMIT_SECONDS)
    logged = run.client.create_logged_model(
        run.experiment_id,
        name=names.MODEL,
        source_run_id=run.run_id,
        model_type=facts.stage,
        tags={
            names.STAGE: facts.stage,
            names.DATASET: facts.dataset,
            names.CLASSES: facts.classes,
            names.WEIGHTS_DIGEST: digest,
            names.HANDOVER_DIGEST: handover_digest(network, draw),
            "family": network.architecture.family,
            "depth": str(network.architecture.depth),
            "image_shape": ",".join(map(str, network.architecture.image_shape)),
        },
        params=run.client.get_run(run.run_id).data.params,
    )
    try:
        folder = run.folder / names.MODEL
        metadata = {"weights_digest": digest, **_metadata(facts, network)}
        _save_model(folder, network, split, draw, metadata, model_id=logged.model_id, run=run)
        run.client.log_model_artifacts(logged.model_id, str(folder))
    except BaseException:
        run.client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    run.client.finalize_logged_model(logged.model_id, "READY")
    run.client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    _attach_metrics(run, logged.model_id)
    uri = f"models:/{logged.model_id}"
    run.set_tags({names.MODEL_URI: uri})
    shutil.rmtree(folder)
    return uri


def draw_tensors(split: Split, seen_before: Tensor | None) -> dict[str, Tensor]:
    """Return the places of the images trained on, validated on, and trained on here or by any base before."""
    train, validation = split.train.indices.int(), split.validation.indices.int()
    seen = train.clone() if seen_before is None else torch.cat([train, seen_before.int()]).unique()
    return {"train": train, "validation": validation, "seen": seen}


def _metadata(facts: ModelFacts, network: LayeredNetwork) -> dict[str, object]:
    return {
        "stage": facts.stage,
        "dataset": facts.dataset,
        "classes": facts.classes,
        "class_names": list(facts.class_names),
        "val_accuracy": facts.val_accuracy,
        "family": network.architecture.family,
        "depth": network.architecture.depth,
        "image_shape": list(network.architecture.image_shape),
        "input": "float32 pixels 0-255; scaling is inside the graph",
        "output": "softmax probabilities in the order of class_names",
    }


def _save_model(
    folder: Path,
    network: LayeredNetwork,
    split: Split,
    draw: Mapping[str, Tensor],
    metadata: Mapping[str, object],
    *,
    model_id: str,
    run: StageRun,
) -> None:
    """Write an MLflow model folder: the servable graph, and beside it what later stages rebuild it from."""
    import mlflow.pytorch
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.types import Schema, TensorSpec

    extra = run.folder / names.EXTRA_FILES
    extra.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(network.state_dict(), extra / names.WEIGHTS_FILE)
    (extra / names.ARCHITECTURE_FILE).write_text(network.architecture.model_dump_json(indent=1), encoding="utf-8")
    safetensors.torch.save_file(dict(draw), extra / names.DRAW_FILE, {"dataset": split.dataset})

    shape = network.architecture.image_shape
    outputs = len(network.architecture.classes)
    pixels = TensorSpec(np.dtype(np.float32), (-1, *shape))
    probabilities = TensorSpec(np.dtype(np.float32), (-1, outputs))
    shutil.rmtree(folder, ignore_errors=True)
    mlflow.pytorch.save_model(
        Classifier(network).eval(),
        str(folder),
        mlflow_model=Model(run_id=run.run_id, model_id=model_id, artifact_path=names.MODEL),
        signature=ModelSignature(Schema([pixels]), Schema([probabilities])),
        input_example=split.test.pixels[:EXAMPLE_IMAGES].float().numpy(),
        pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in ("mlflow", "torch", "numpy")],
        extra_files=[str(extra / file) for file in (names.WEIGHTS_FILE, names.ARCHITECTURE_FILE, names.DRAW_FILE)],
        metadata=dict(metadata),
        serialization_format="pt2",
    )
    shutil.rmtree(extra)


def _attach_metrics(run: StageRun, model_id: str) -> None:
    """Copy the run's final metrics to the model, so that the UI's model page and comparison show them."""
    points = [Metric(*point, model_id=model_id, run_id=run.run_id) for point in run.final_points]
    run.client.log_batch(run.run_id, metrics=points, synchronous=True)


def register_model(run: StageRun, model_uri: str, name: str, val_accuracy: float) -> str:
    """Register a model and give it the alias `best` where its validation accuracy beats the holder's.

    Returns:
        One line that says what became of it.
    """
    client = run.client
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(
        name,
        model_uri,
        run_id=run.run_id,
        model_id=model_uri.removeprefix("models:/"),
        tags={names.VAL_FINAL_ACCURACY: repr(val_accuracy)},
    )
    try:
        holder = client.get_model_version_by_alias(name, "best")
        held = float(holder.tags.get(names.VAL_FINAL_ACCURACY, "-inf"))
    except MlflowException:
        holder, held = None, float("-inf")
    registered = f"registered as {name} version {created.version}"
    if holder is not None and val_accuracy <= held:
        return f"{registered}; alias best stays with version {holder.version} ({held:.4f} on validation)"
    client.set_registered_model_alias(name, "best", created.version)
    return f"{registered}, which now has the alias best ({val_accuracy:.4f} on validation)"
