"""The servable graph of a model: exported with it, or added to it on demand.

A graph (pt2) takes longer to export than a small network to fit, so steps of a plan log weights and records only.
`add_graph` completes such a model under the same URI, without code of this project in it.
"""

import importlib.util
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import Tensor

from pipeline.data.torchvision_import import make_importable
from pipeline.errors import invalid
from pipeline.networks.layered import Classifier, LayeredNetwork
from pipeline.tracking import names
from pipeline.tracking.base_model import Base
from pipeline.tracking.outbox.model_upload import write_ids

EXAMPLE_IMAGES = 2  # an example batch of one would specialize the exported graph to batches of one
GRAPH_FOLDER, GRAPH_FILE = "data", "model.pt2"  # as mlflow.pytorch names them


@dataclass(frozen=True)
class ModelFacts:
    """Metadata of a model beyond its architecture."""

    stage: str
    dataset: str
    classes: str
    class_names: tuple[str, ...]
    val_accuracy: float


def describe_model(network: LayeredNetwork, facts: ModelFacts, digest: str) -> Model:
    """Return the description of a model, without flavors: nothing can serve it until `write_graph`.

    `digest` is that of the network's weights.
    """
    pixels = TensorSpec(np.dtype(np.float32), (-1, *network.architecture.image_shape))
    probabilities = TensorSpec(np.dtype(np.float32), (-1, len(network.architecture.classes)))
    return Model(
        artifact_path=names.MODEL,
        signature=ModelSignature(Schema([pixels]), Schema([probabilities])),
        metadata={
            "weights_digest": digest,
            **asdict(facts),
            "class_names": list(facts.class_names),  # as YAML reads it back
            "family": network.architecture.family,
            "depth": network.architecture.depth,
            "image_shape": list(network.architecture.image_shape),
            "input": "float32 pixels 0-255; normalization is inside the graph",
            "output": "softmax probabilities in the order of class_names",
        },
    )


def black_images(network: LayeredNetwork) -> Tensor:
    """Return an example batch for a network without images of its own, uint8 (N, C, H, W)."""
    return torch.zeros(EXAMPLE_IMAGES, *network.architecture.image_shape, dtype=torch.uint8)


def write_graph(folder: Path, network: LayeredNetwork, model: Model, *, example: Tensor) -> None:
    """Write a servable MLflow model to a folder: the graph, its requirements, and `MLmodel`.

    Args:
        folder: May exist, with other files in it.
        network: On the CPU, in eval mode.
        model: Its description; gets the flavors.
        example: uint8 images (N, C, H, W), for tracing and as the model's input example.
    """
    if importlib.util.find_spec("lightning") or importlib.util.find_spec("pytorch_lightning"):
        make_importable()  # mlflow.pytorch imports Lightning if installed, which imports torchvision
    import mlflow.pytorch

    exported = folder.with_name(f".{folder.name}.exported")
    shutil.rmtree(exported, ignore_errors=True)  # of an interrupted attempt
    mlflow.pytorch.save_model(
        Classifier(network).eval(),
        str(exported),
        mlflow_model=model,
        signature=model.signature,
        input_example=example.float().numpy(),
        pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in ("mlflow", "torch", "numpy")],
        serialization_format="pt2",
    )
    shutil.copytree(exported, folder, dirs_exist_ok=True, copy_function=shutil.move)
    shutil.rmtree(exported)


def add_graph(client: MlflowClient, base: Base) -> bool:
    """Export the servable graph of a logged model into that model, and return whether it had none.

    Raises:
        UserInputError: The model is not uploaded yet.
    """
    if not base.model_uri.startswith("models:/"):
        raise invalid("model", base.model_uri, "not uploaded yet.", remedy="Run python -m pipeline sync first.")
    logged = client.get_logged_model(base.model_uri.removeprefix("models:/"))
    if is_servable(client, logged):
        return False
    run = client.get_run(base.run_id)
    facts = ModelFacts(
        stage=base.stage,
        dataset=base.dataset,
        classes=logged.tags[names.CLASSES],
        class_names=base.classes,
        val_accuracy=run.data.metrics.get(names.VAL_FINAL_ACCURACY, 0.0),
    )
    model = describe_model(base.network, facts, base.digest)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / names.MODEL
        write_graph(folder, base.network, model, example=black_images(base.network))
        write_ids(folder, {"model_id": logged.model_id, "run_id": base.run_id})
        _upload_graph(client, logged.model_id, folder)
    return True


def is_servable(client: MlflowClient, model: LoggedModel) -> bool:
    """Return whether a logged model has a servable graph."""
    if model.tags.get(names.SERVABLE) == "false":
        return False
    items = client.list_logged_model_artifacts(model.model_id, GRAPH_FOLDER)
    return any(Path(item.path).name == GRAPH_FILE for item in items)


def _upload_graph(client: MlflowClient, model_id: str, folder: Path) -> None:
    """Upload the files of a servable model; `MLmodel`, which makes it one, comes last."""
    description = (folder / "MLmodel").rename(folder.with_name("MLmodel"))
    client.log_model_artifacts(model_id, str(folder))
    client.log_model_artifact(model_id, str(description))
    client.set_logged_model_tags(model_id, {names.SERVABLE: "true"})
