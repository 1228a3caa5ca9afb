"""The network that `train_base` trains: built here, or from a library or the user's own code with random weights."""

from __future__ import annotations

from torch import nn

from pipeline.data.normalization import resolve_preprocessing
from pipeline.data.splits import Split
from pipeline.errors import Fault, UserInputError
from pipeline.networks.build import build_network
from pipeline.networks.layered import LayeredNetwork
from pipeline.networks.origins.load import ModelRequest, is_graph_model, load_model
from pipeline.networks.origins.source import ModelSource
from pipeline.params import TrainBaseParams
from pipeline.runtime import generator
from pipeline.stages.fit_settings import requested_architecture
from pipeline.tracking import names
from pipeline.tracking.stage_run import StageRun


def base_network(params: TrainBaseParams, split: Split) -> tuple[LayeredNetwork, ModelSource | None]:
    """Return the network that parameters describe, for the images and classes of a split, and where it comes from.

    Raises:
        UserInputError: It cannot be built, or does not fit the images or the batch size.
    """
    if not is_graph_model(params.model):
        return build_network(requested_architecture(params, split), generator(params.seed, "weights")), None
    preprocessing = resolve_preprocessing(params, split.geometry, split.train)
    request = ModelRequest(params.model, classes=split.class_names, preprocessing=preprocessing)
    loaded = load_model(request, generator(params.seed, "weights"))
    if params.batch_size == 1 and has_batch_norm(loaded.network):
        what = f"{params.model} has batch norm."
        raise UserInputError(Fault("batch_size", 1, what, "Use at least 2 images per batch."))
    return loaded.network, loaded.source


def has_batch_norm(module: nn.Module) -> bool:
    """Return whether a module contains batch norm."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


def log_own_code(run: StageRun, source: ModelSource | None) -> None:
    """Log the user's code that builds a network, for reading."""
    if source is not None and source.source_text:
        path = run.folder / names.OWN_SOURCE
        path.write_text(source.source_text, encoding="utf-8")
        run.log_file(path)
