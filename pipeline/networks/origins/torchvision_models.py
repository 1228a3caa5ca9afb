"""torchvision's classification networks, by name."""

import re
from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any, Literal, cast

from torch import Tensor, nn

from pipeline.data.preprocessing import Preprocessing
from pipeline.data.torchvision_import import make_importable
from pipeline.errors import suggest
from pipeline.networks.origins.source import ModelSource

# The published weights of these were trained with auxiliary classifiers (for training only), and with inputs that the
# network normalizes again.
INCEPTIONS = {
    "googlenet": {"aux_logits": False, "transform_input": True, "init_weights": True},
    "inception_v3": {"aux_logits": False, "transform_input": True, "init_weights": True},
}
AUXILIARY = re.compile(r"(aux1|aux2|AuxLogits)\.")
# Source: torchvision/models/densenet.py, which renames the tensors of its published files in the same way
DENSENET_NAME = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)")


def _models() -> ModuleType:
    make_importable()
    import torchvision.models

    models: ModuleType = torchvision.models
    return models


def torchvision_source(name: str) -> ModelSource:
    """Return the source of a network.

    Raises:
        ValueError: torchvision has no classification network of this name.
    """
    models = _models()
    names: list[str] = models.list_models(module=models)
    if name not in names:
        hint = suggest(name, names) or f"Available: {', '.join(names)}."
        raise ValueError(f"torchvision has no classification network {name!r}. {hint}")
    weights = models.get_model_weights(name).DEFAULT
    from torchvision import __version__

    return ModelSource(
        family="torchvision",
        name=name,
        build=partial(_build, name),
        library_version=__version__,
        preprocessing=_preprocessing(weights.transforms()),
        categories=tuple(weights.meta["categories"]),
        published_weights=partial(_download, weights),
        rename=partial(_rename, name),
    )


def _build(name: str, classes: int | None) -> nn.Module:
    options: dict[str, Any] = dict(INCEPTIONS.get(name, {}))
    if classes is not None:
        options["num_classes"] = classes
    return cast(nn.Module, _models().get_model(name, weights=None, **options))


def _download(weights: Any) -> Mapping[str, Tensor]:
    """Return published weights from torch's cache, downloaded on first use."""
    return cast(Mapping[str, Tensor], weights.get_state_dict(progress=False, check_hash=True))


def _rename(name: str, tensor: str) -> str | None:
    if name in INCEPTIONS and AUXILIARY.match(tensor):
        return None
    match = DENSENET_NAME.fullmatch(tensor) if name.startswith("densenet") else None
    return match[1] + match[2] if match else tensor


def _preprocessing(transforms: Any) -> Preprocessing:
    """Convert the transforms of published weights."""
    side, resized = transforms.crop_size[0], transforms.resize_size[0]
    interpolation = cast(Literal["bilinear", "bicubic"], transforms.interpolation.value)
    return Preprocessing(
        size=(side, side),
        channels=3,
        resize="fit",
        crop_ratio=side / resized,
        interpolation=interpolation,
        antialias=bool(transforms.antialias),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
