"""Load a network from the user's parameters: model, weights, image size, blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.data.preprocessing import Preprocessing
from pipeline.errors import invalid, suggest
from pipeline.networks.graph.network import DividedNetwork, GraphNetwork, Origin, build_from_module, describe, divide
from pipeline.networks.graph.record import GRAPH_FAMILIES
from pipeline.networks.origins.own_code import own_source
from pipeline.networks.origins.rebuild import LIBRARIES
from pipeline.networks.origins.source import ModelSource, build_on_meta, check_size, seeded
from pipeline.networks.weights_file import WeightsFile, WeightsReport, load_weights, read_weights_file
from pipeline.params.data import MAX_CLASSES
from pipeline.params.family import GRAPH_FORMS, OWN_PREFIX
from pipeline.redaction import first_line

FORMS = GRAPH_FORMS


@dataclass(frozen=True)
class ModelRequest:
    """The requested network.

    Attributes:
        model: `torchvision:NAME`, `timm:NAME`, `own:PATH.py:FUNCTION` or `own:package.module:FUNCTION`.
        weights: `none` (random), `default` (published, downloaded), or the path of a file.
        classes: Class names in the order of the logits; None numbers the outputs of the weights.
        preprocessing: Preprocessing; None uses that of the published weights.
        image_size: (H, W) that overrides the size in the preprocessing.
        blocks: Modules to use as blocks; if empty, they are determined automatically.
        accept_new_head: Whether the weights may have another head; it is then initialized randomly.
    """

    model: str
    weights: str = "none"
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    image_size: tuple[int, int] | None = None
    blocks: tuple[str, ...] = ()
    accept_new_head: bool = False


@dataclass(frozen=True)
class LoadedModel:
    """A network and the details to log about it.

    Attributes:
        network: Network with its published head, in evaluation mode.
        source: Library or code that built it.
        report: Report on the loaded weights; None if they are random.
        unused: Parameters that `forward` does not use; they are dropped.
    """

    network: GraphNetwork
    source: ModelSource
    report: WeightsReport | None
    unused: tuple[str, ...]


def is_graph_model(model: str) -> bool:
    """Return whether a value of the parameter `model` names a torchvision, timm or own network."""
    return model.partition(":")[0] in GRAPH_FAMILIES and ":" in model


def model_source(model: str) -> ModelSource:
    """Return the source of a network; `own:` imports the user's code.

    Raises:
        UserInputError: Unknown origin or name, a missing extra, or code that cannot be imported.
    """
    family, colon, name = model.partition(":")
    if not colon or family not in GRAPH_FAMILIES:
        hint = suggest(family, GRAPH_FAMILIES)
        raise invalid("model", model, f"must be {FORMS}.", remedy=hint)
    try:
        return own_source(name) if family == "own" else LIBRARIES[family](name)
    except ValueError as error:
        raise invalid("model", model, str(error)) from error


def named_code(model: str) -> ModelSource | None:
    """Return the user's own code that `model` names; importing it runs it. None for anything else."""
    return model_source(model) if model.startswith(OWN_PREFIX) else None


def load_model(request: ModelRequest, generator: torch.Generator, *, source: ModelSource | None = None) -> LoadedModel:
    """Build a network, load its weights and divide it into blocks.

    Args:
        request: What the user requested.
        generator: Seeds random weights.
        source: That of the request's model, if it is known already.

    Raises:
        UserInputError: The request is invalid.
    """
    source = source or model_source(request.model)
    preprocessing = requested_preprocessing(request, source)
    count = len(request.classes) if request.classes else None
    module = _build(source, count, generator)
    divided = _divide(module, request, preprocessing)
    file = _weights(request, source, module)
    if file is not None and count is None and (outputs := _outputs(file, divided)) != divided.outputs:
        module = _build(source, outputs, generator)
        divided = _divide(module, request, preprocessing)
    if count is not None and divided.outputs != count:
        problem = f"the network has {divided.outputs} outputs, but {count} classes are given."
        raise invalid("classes", count, problem, remedy="Give one class per output, or leave classes out.")
    report = None if file is None else _load(request, divided, file)
    if divided.outputs > MAX_CLASSES:
        problem = f"has {divided.outputs:,} outputs; at most {MAX_CLASSES:,} classes are supported."
        raise invalid("model", request.model, problem, remedy="Choose a version with fewer classes.")
    classes = request.classes or tuple(map(str, range(divided.outputs)))
    origin = Origin(
        family=source.family,
        name=source.name,
        library_version=source.library_version,
        source_digest=source.source_digest,
        preprocessing=preprocessing,
        leaves=request.blocks,
    )
    try:
        record = describe(divided, origin, classes)
    except ValidationError as error:  # exceeds a limit of the record, such as the number of blocks
        first = error.errors(include_url=False)[0]
        raise invalid("model", request.model, f"{'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    network = build_from_module(module, record, generator).eval()
    return LoadedModel(network, source, report, divided.unused)


def requested_preprocessing(request: ModelRequest, source: ModelSource) -> Preprocessing:
    """Return the requested preprocessing, else that of the published weights, with the requested image size.

    Raises:
        UserInputError: There is no preprocessing and no image size.
    """
    record = request.preprocessing or source.preprocessing
    if record is None and request.image_size is None:
        problem = "your own network has no published preprocessing."
        raise invalid(
            "image_size", None, problem, remedy="Give image_size, and mean and std if it was trained with them."
        )
    if record is None:
        assert request.image_size is not None
        return Preprocessing(size=request.image_size, channels=3)
    return record.model_copy(update={"size": request.image_size}) if request.image_size else record


def _build(source: ModelSource, classes: int | None, generator: torch.Generator) -> nn.Module:
    try:
        if source.family != "own":
            build_on_meta(source, classes)  # checks the size before allocating memory
        with seeded(generator):
            module = source.build(classes)
        check_size(source.model, module)
    except ValueError as error:
        raise invalid("model", source.model, str(error)) from error
    return module


def _divide(module: nn.Module, request: ModelRequest, preprocessing: Preprocessing) -> DividedNetwork:
    try:
        return divide(module, preprocessing.image_shape, request.blocks)
    except ValueError as error:
        raise invalid("model", request.model, str(error)) from error


def _weights(request: ModelRequest, source: ModelSource, module: nn.Module) -> WeightsFile | None:
    if request.weights == "none":
        return None
    if request.weights != "default":
        try:
            return read_weights_file(Path(request.weights), module, rename=source.rename)
        except ValueError as error:
            raise invalid("weights", request.weights, _without_path(error, request.weights)) from error
    if source.published_weights is None:
        raise invalid("weights", "default", f"{source.model} has no published weights.", remedy="Give a file, or none.")
    return _download(source)


def _download(source: ModelSource) -> WeightsFile:
    assert source.published_weights is not None
    try:
        tensors = _renamed(source.published_weights(), source)
    except Exception as error:  # each library raises its own errors when offline
        problem = f"the weights of {source.model} cannot be downloaded: {type(error).__name__}: {first_line(error)}."
        raise invalid("weights", "default", problem, remedy="Download them elsewhere and pass the file.") from error
    return WeightsFile(f"{source.model} {source.library_version}, published weights", tensors)


def _renamed(tensors: Mapping[str, Tensor], source: ModelSource) -> dict[str, Tensor]:
    return {new: tensor for name, tensor in tensors.items() if (new := source.rename(name)) is not None}


def _outputs(file: WeightsFile, divided: DividedNetwork) -> int:
    """Return the number of outputs of a file's head, or of the network if the file has no head."""
    for name in reversed(divided.head_parameters):
        if name in file.tensors and file.tensors[name].ndim:
            return len(file.tensors[name])
    return divided.outputs


def _load(request: ModelRequest, divided: DividedNetwork, file: WeightsFile) -> WeightsReport:
    try:
        return load_weights(
            divided.traced.module,
            file,
            head_parameters=divided.head_parameters,
            accept_new_head=request.accept_new_head,
        )
    except ValueError as error:
        if request.classes and (outputs := _outputs(file, divided)) != len(request.classes):
            problem = f"the weights are for {outputs} classes, but {len(request.classes)} classes are given."
            raise invalid("classes", len(request.classes), problem, remedy="Give one name per class.") from error
        raise invalid("weights", request.weights, _without_path(error, request.weights)) from error


def _without_path(error: ValueError, path: str) -> str:
    """Return a message about a weights file without its path, which the fault names already."""
    return str(error).removeprefix(path).lstrip(": ")
