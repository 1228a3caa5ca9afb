"""timm's networks, by name; timm is an optional extra."""

import importlib.util
import logging
from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any, Literal, cast, get_args

from torch import Tensor, nn

from pipeline.data.preprocessing import Preprocessing
from pipeline.data.torchvision_import import make_importable
from pipeline.errors import suggest
from pipeline.networks.origins.source import ModelSource

logger = logging.getLogger(__name__)

RESIZE: dict[str, Literal["fit", "stretch", "pad"]] = {"center": "fit", "squash": "stretch", "border": "pad"}
DEFAULT_CLASSES = 1000  # for networks published without a classifier, such as DINO
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
INTERPOLATIONS: dict[str, Interpolation] = {name: name for name in get_args(Interpolation)}


def _timm() -> ModuleType:
    if importlib.util.find_spec("timm") is None:
        raise ValueError("timm is not installed. Install it: pip install 'mlflow-transfer-pipeline[timm]' (or timm).")
    make_importable()
    import timm

    module: ModuleType = timm
    return module


def timm_source(name: str) -> ModelSource:
    """Return the source of a network; `name` may include the tag of published weights, as in `resnet18.a1_in1k`.

    Raises:
        ValueError: timm is not installed, or has no network of this name.
    """
    timm = _timm()
    names: list[str] = timm.list_models()
    if name.partition(".")[0] not in names:  # rejects names with a colon, which timm would load from a hub or from disk
        hint = suggest(name, names) or "List them: python -c 'import timm; print(timm.list_models())'."
        raise ValueError(f"timm has no network {name!r}. {hint}")
    if name != name.partition(".")[0] and name not in timm.list_pretrained():
        hint = suggest(name, timm.list_pretrained(f"{name.partition('.')[0]}.*"))
        raise ValueError(f"timm has no published weights {name!r}. {hint}".strip())
    config = timm.get_pretrained_cfg(name)
    data = timm.data.resolve_data_config(pretrained_cfg=config.to_dict() if config is not None else {})
    return ModelSource(
        family="timm",
        name=name,
        build=partial(_build, name, int(getattr(config, "num_classes", 0)) or DEFAULT_CLASSES),
        library_version=timm.__version__,
        preprocessing=_preprocessing(name, data),
        published_weights=partial(_download, name),
        license=str(getattr(config, "license", None) or ""),
    )


def _build(name: str, default_classes: int, classes: int | None) -> nn.Module:
    return cast(nn.Module, _timm().create_model(name, pretrained=False, num_classes=classes or default_classes))


def _download(name: str) -> Mapping[str, Tensor]:
    """Return published weights from the hub's cache, downloaded on first use."""
    return cast(Mapping[str, Tensor], _timm().create_model(name, pretrained=True).state_dict())


def _preprocessing(name: str, data: Mapping[str, Any]) -> Preprocessing:
    if data["crop_pct"] > 1:
        logger.warning(
            f"timm:{name} was evaluated on padded images (crop_pct {data['crop_pct']}); using a crop ratio of 1"
        )
    channels, height, width = data["input_size"]
    return Preprocessing(
        size=(height, width),
        channels=channels,
        resize=RESIZE[data["crop_mode"]],
        crop_ratio=min(data["crop_pct"], 1.0),
        interpolation=INTERPOLATIONS.get(data["interpolation"], "bilinear"),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )
