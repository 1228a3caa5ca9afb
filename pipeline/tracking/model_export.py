"""The hand-over: one logged model that can be served, cut, frozen and trained on.

Beside the servable graph (pt2) lie `weights.safetensors`, `architecture.json` and the places of the images that
it was trained and validated on. Later stages rebuild the network from these; nothing is ever unpickled.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import safetensors.torch
import torch
import yaml
from torch import Tensor

from pipeline.data.splits import Split
from pipeline.data.torchvision_import import make_importable
from pipeline.networks.build import weights_digest
from pipeline.networks.layered import Classifier, LayeredNetwork
from pipeline.tracking import names
from pipeline.tracking.base_model import model_digest
from pipeline.tracking.stage_run import StageRun

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
    run: StageRun,
    network: LayeredNetwork,
    split: Split,
    facts: ModelFacts,
    *,
    seen_before: Tensor | None = None,
    register_as: str = "",
) -> None:
    """Save a trained network as the run's model, and have it delivered like everything else.

    Args:
        run: Its final metrics, logged before, attach to the model.
        network: With its best weights; moved to the CPU.
        split: What it was trained on.
        facts: Go into the model's metadata.
        seen_before: int64, places in the official training part of images that its base was trained on.
        register_as: The name to register it under; empty does not.
    """
    network.cpu().eval()
    for parameter in network.parameters():  # channels-last kernels are for training; files hold the plain order
        parameter.data = parameter.data.contiguous()
    digest = weights_digest(network.state_dict())
    draw = draw_tensors(split, seen_before)
    run.set_tags({names.WEIGHTS_DIGEST: digest})
    _save_model(run, network, split, draw, {"weights_digest": digest, **_metadata(facts, network)})
    tags = {
        names.STAGE: facts.stage,
        names.DATASET: facts.dataset,
        names.CLASSES: facts.classes,
        names.WEIGHTS_DIGEST: digest,
        names.MODEL_DIGEST: model_digest(network, draw),
        "family": network.architecture.family,
        "depth": str(network.architecture.depth),
        "image_shape": ",".join(map(str, network.architecture.image_shape)),
    }
    run.uploader.put({"kind": "model", "tags": tags, "metrics": run.final_points})
    if register_as:
        run.uploader.put({"kind": "register", "name": register_as, "val_accuracy": facts.val_accuracy})


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
    run: StageRun,
    network: LayeredNetwork,
    split: Split,
    draw: Mapping[str, Tensor],
    metadata: Mapping[str, object],
) -> None:
    """Write an MLflow model folder: the servable graph, and beside it what later stages rebuild it from.

    It is there whole or not at all; one that an interrupted attempt has left may just be on its way, and is kept.
    """
    folder = run.folder / names.MODEL
    if folder.is_dir():
        described = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        if described["metadata"] == dict(metadata):
            return
        shutil.rmtree(folder)
    if importlib.util.find_spec("lightning") or importlib.util.find_spec("pytorch_lightning"):
        make_importable()  # mlflow.pytorch imports Lightning where it is installed, and that imports torchvision
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
    beside = run.folder / f".{names.MODEL}"
    shutil.rmtree(beside, ignore_errors=True)
    mlflow.pytorch.save_model(
        Classifier(network).eval(),
        str(beside),
        mlflow_model=Model(run_id=run.run_id, artifact_path=names.MODEL),
        signature=ModelSignature(Schema([pixels]), Schema([probabilities])),
        input_example=split.test.pixels[:EXAMPLE_IMAGES].float().numpy(),
        pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in ("mlflow", "torch", "numpy")],
        extra_files=[str(extra / file) for file in (names.WEIGHTS_FILE, names.ARCHITECTURE_FILE, names.DRAW_FILE)],
        metadata=dict(metadata),
        serialization_format="pt2",
    )
    shutil.rmtree(extra)
    beside.rename(folder)
