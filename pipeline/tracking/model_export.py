"""Export a trained network as a logged model that can be served, cut, frozen and fine-tuned.

`weights.safetensors`, `architecture.json` and the identities of the training and validation images are stored next to
the servable graph (pt2). Later stages rebuild the network from these files; nothing is ever unpickled.
"""

import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

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

EXAMPLE_IMAGES = 2  # an example batch of one would specialize the exported graph to batches of one


@dataclass(frozen=True)
class ModelFacts:
    """Metadata of a model beyond its architecture."""

    stage: str
    dataset: str
    classes: str
    class_names: tuple[str, ...]
    val_accuracy: float


@dataclass(frozen=True)
class ModelImages:
    """What a model keeps of images.

    Attributes:
        identities: int64, of the images trained on (`train`), validated on (`validation`), and trained on by the model
            or any of its ancestors (`seen`).
        example: uint8 (N, C, H, W), for the exported graph and the model's input example.
    """

    identities: dict[str, Tensor]
    example: Tensor


def log_model(
    run: StageRun,
    network: LayeredNetwork,
    *,
    facts: ModelFacts,
    images: ModelImages,
    card: str = "",
    register_as: str = "",
) -> None:
    """Save a network, moved to the CPU, as the run's model and upload it in the background.

    The run's final metrics, logged before, are attached to the model. `card` is its description in Markdown, stored as
    a file and as a tag. If `register_as` is not empty, the model is registered under that name.
    """
    network.cpu().eval()
    for parameter in network.parameters():  # saved in the default memory format; training may use channels-last
        parameter.data = parameter.data.contiguous()
    digest = weights_digest(network.state_dict())
    run.set_tags({names.WEIGHTS_DIGEST: digest})
    metadata = {"weights_digest": digest, **_metadata(facts, network)}
    if not _is_saved(run.folder / names.MODEL, metadata):
        folder = run.folder / names.EXTRA_FILES
        extra_files = _write_extra_files(folder, network, images.identities, dataset=facts.dataset)
        if card:
            extra_files.append(str(folder / names.MODEL_CARD))
            Path(extra_files[-1]).write_text(card, encoding="utf-8")
        _save_model(run, network, images.example, extra_files=extra_files, metadata=metadata)
        shutil.rmtree(run.folder / names.EXTRA_FILES)
    tags = {
        names.STAGE: facts.stage,
        names.DATASET: facts.dataset,
        names.CLASSES: facts.classes,
        names.WEIGHTS_DIGEST: digest,
        names.MODEL_DIGEST: model_digest(network, images.identities),
        names.FORMAT: names.FORMAT_VERSION,
        **({names.NOTE: card[: names.MAX_TAG_LENGTH]} if card else {}),
        "family": network.architecture.family,
        "depth": str(network.architecture.depth),
        "image_shape": ",".join(map(str, network.architecture.image_shape)),
    }
    run.uploader.put({"kind": "model", "tags": tags, "metrics": run.final_points})
    if register_as:
        run.uploader.put({"kind": "register", "name": register_as, "val_accuracy": facts.val_accuracy})


def images_of(split: Split, seen_before: Tensor | None) -> ModelImages:
    """Return the images of a trained model; `seen_before` has the identities that its base was trained on (int64)."""
    train, validation = split.train.ids, split.validation.ids
    seen = train.clone() if seen_before is None else torch.cat([train, seen_before]).unique()
    example = split.test.gather(torch.arange(EXAMPLE_IMAGES) % len(split.test))
    return ModelImages({"train": train, "validation": validation, "seen": seen}, example)


def images_of_imported(network: LayeredNetwork) -> ModelImages:
    """Return the images of an imported network: it is not known what it was trained on, and the example is black."""
    nothing = torch.zeros(0, dtype=torch.int64)
    example = torch.zeros(EXAMPLE_IMAGES, *network.architecture.image_shape, dtype=torch.uint8)
    return ModelImages({"train": nothing, "validation": nothing.clone(), "seen": nothing.clone()}, example)


def _metadata(facts: ModelFacts, network: LayeredNetwork) -> dict[str, object]:
    return {
        **asdict(facts),
        "class_names": list(facts.class_names),  # as YAML reads it back
        "family": network.architecture.family,
        "depth": network.architecture.depth,
        "image_shape": list(network.architecture.image_shape),
        "input": "float32 pixels 0-255; normalization is inside the graph",
        "output": "softmax probabilities in the order of class_names",
    }


def _is_saved(folder: Path, metadata: Mapping[str, object]) -> bool:
    """Return whether an interrupted attempt has saved the same model, which may be uploading; delete any other."""
    if not folder.is_dir():
        return False
    if yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))["metadata"] == dict(metadata):
        return True
    shutil.rmtree(folder)
    return False


def _write_extra_files(
    folder: Path, network: LayeredNetwork, identities: dict[str, Tensor], *, dataset: str
) -> list[str]:
    """Write the files from which later stages rebuild the network, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(network.state_dict(), folder / names.WEIGHTS_FILE)
    (folder / names.ARCHITECTURE_FILE).write_text(network.architecture.model_dump_json(indent=1), encoding="utf-8")
    safetensors.torch.save_file(identities, folder / names.IDENTITIES_FILE, {"dataset": dataset})
    return [str(folder / name) for name in (names.WEIGHTS_FILE, names.ARCHITECTURE_FILE, names.IDENTITIES_FILE)]


def _save_model(
    run: StageRun,
    network: LayeredNetwork,
    example: Tensor,
    *,
    extra_files: list[str],
    metadata: dict[str, object],
) -> None:
    """Save an MLflow model folder atomically; `example` holds uint8 images (N, C, H, W)."""
    if importlib.util.find_spec("lightning") or importlib.util.find_spec("pytorch_lightning"):
        make_importable()  # mlflow.pytorch imports Lightning if installed, which imports torchvision
    import mlflow.pytorch
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.types import Schema, TensorSpec

    pixels = TensorSpec(np.dtype(np.float32), (-1, *network.architecture.image_shape))
    probabilities = TensorSpec(np.dtype(np.float32), (-1, len(network.architecture.classes)))
    temporary = run.folder / f".{names.MODEL}"
    shutil.rmtree(temporary, ignore_errors=True)
    mlflow.pytorch.save_model(
        Classifier(network).eval(),
        str(temporary),
        mlflow_model=Model(run_id=run.run_id, artifact_path=names.MODEL),
        signature=ModelSignature(Schema([pixels]), Schema([probabilities])),
        input_example=example.float().numpy(),
        pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in ("mlflow", "torch", "numpy")],
        extra_files=extra_files,
        metadata=metadata,
        serialization_format="pt2",
    )
    temporary.rename(run.folder / names.MODEL)
