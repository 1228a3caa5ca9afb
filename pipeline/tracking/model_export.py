"""Log a trained network as a model that can be cut, frozen, fine-tuned and, with its graph, served.

`weights.safetensors`, `architecture.json` and the identities of the training and validation images are stored next to
the servable graph (`graph_export`), which steps of a plan do not have. Later stages rebuild the network from these
files; nothing is ever unpickled.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
import yaml
from torch import Tensor

from pipeline.data.splits import Split
from pipeline.networks.build import weights_digest
from pipeline.networks.layered import LayeredNetwork
from pipeline.tracking import names
from pipeline.tracking.base_model import model_digest
from pipeline.tracking.graph_export import EXAMPLE_IMAGES, ModelFacts, black_images, describe_model, write_graph
from pipeline.tracking.stage_run import StageRun


@dataclass(frozen=True)
class ModelImages:
    """The images that are logged with a model.

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
    a file and as a tag. If `register_as` is not empty, the model is registered under that name. It has a servable graph
    if the run exports one, or if it is registered.
    """
    network.cpu().eval()
    for parameter in network.parameters():  # saved in the default memory format; training may use channels-last
        parameter.data = parameter.data.contiguous()
    digest = weights_digest(network.state_dict())
    run.set_tags({names.WEIGHTS_DIGEST: digest})
    servable = run.exports_graph or bool(register_as)
    model = describe_model(network, facts, digest)
    model.run_id = run.run_id
    folder = run.folder / names.MODEL
    if not _is_saved(folder, model.metadata or {}, servable=servable):
        temporary = run.folder / f".{names.MODEL}"
        shutil.rmtree(temporary, ignore_errors=True)
        _write_files(temporary / names.EXTRA_FILES, network, images.identities, facts=facts, card=card)
        if servable:
            write_graph(temporary, network, model, example=images.example)
        else:
            model.save(str(temporary / "MLmodel"))
        temporary.rename(folder)
    tags = {
        names.STAGE: facts.stage,
        names.DATASET: facts.dataset,
        names.CLASSES: facts.classes,
        names.WEIGHTS_DIGEST: digest,
        names.MODEL_DIGEST: model_digest(network, images.identities),
        names.SERVABLE: str(servable).lower(),
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
    identities = {"train": nothing, "validation": nothing.clone(), "seen": nothing.clone()}
    return ModelImages(identities, black_images(network))


def _is_saved(folder: Path, metadata: Mapping[str, object], *, servable: bool) -> bool:
    """Return whether an interrupted attempt has saved the same model, which may be uploading; delete any other."""
    if not folder.is_dir():
        return False
    saved = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    if saved["metadata"] == dict(metadata) and (saved["flavors"] or not servable):
        return True
    shutil.rmtree(folder)
    return False


def _write_files(
    folder: Path, network: LayeredNetwork, identities: dict[str, Tensor], *, facts: ModelFacts, card: str
) -> None:
    """Write the files from which later stages rebuild the network, and the model card if there is one."""
    folder.mkdir(parents=True)
    safetensors.torch.save_file(network.state_dict(), folder / names.WEIGHTS_FILE)
    (folder / names.ARCHITECTURE_FILE).write_text(network.architecture.model_dump_json(indent=1), encoding="utf-8")
    safetensors.torch.save_file(identities, folder / names.IDENTITIES_FILE, {"dataset": facts.dataset})
    if card:
        (folder / names.MODEL_CARD).write_text(card, encoding="utf-8")
