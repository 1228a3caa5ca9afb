"""The network: built here (MLP or CNN) with its shape, or from a library or own code; defaults that depend on it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.errors import suggest
from pipeline.params.base import Probability, StageParams, setting

Family = Literal["mlp", "cnn"]
GRAPH = "graph"  # any network that was not built here; its blocks are found in its graph
OWN_PREFIX = "own:"
OWN_PATTERN = rf"^({OWN_PREFIX}.+:\w+)?$"  # empty, or the user's own code
GRAPH_MODEL = re.compile(r"(torchvision|timm):[\w.\-]+|own:.+:\w+")
GRAPH_FORMS = "torchvision:NAME, timm:NAME or own:PATH.py:FUNCTION"
Width = Annotated[int, Field(ge=1, le=16_384)]

# Defaults that depend on the family. The family does not have the parameters that its entry lacks.
FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    "mlp": {
        "epochs": 100,
        "patience": 20,
        "learning_rate": 0.001,
        "hidden_layers": 5,
        "width": 100,
        "batch_norm": False,
        "dropout": 0.0,
    },
    "cnn": {
        "epochs": 30,
        "patience": 6,
        "learning_rate": 0.002,
        "batch_norm": True,
        "dropout": 0.1,
        "conv_channels": "auto",  # these five depend on the images: see networks.from_params
        "kernels": "auto",
        "strides": "auto",
        "padding": "auto",
        "pool": "auto",
        "dense_width": 128,
        "dense_dropout": 0.25,
    },
    GRAPH: {"epochs": 30, "patience": 6, "learning_rate": 0.001},
}
FAMILY_FIELDS = tuple(dict.fromkeys(name for defaults in FAMILY_DEFAULTS.values() for name in defaults))
MAX_SIZES = {"conv_channels": 1024, "kernels": 15, "strides": 8}


class FamilyParams(StageParams):
    """The family and shape of a network; parameters of the other families are None."""

    model: str = setting(
        "mlp", "Network family, or a network of a library or your own code.", allowed=f"mlp, cnn, {GRAPH_FORMS}"
    )
    hidden_layers: Annotated[int, Field(ge=1, le=100)] | None = setting("auto", "Hidden layers (MLP only; default: 5).")
    width: Width | None = setting("auto", "Neurons per hidden layer (MLP only; default: 100).", unit="neurons")
    batch_norm: bool | None = setting(
        "auto", "Batch norm before each ReLU (default: false for an MLP, true for a CNN)."
    )
    dropout: Probability | None = setting(
        "auto", "Dropout probability (default: 0 for an MLP, 0.1 per channel for a CNN)."
    )
    conv_channels: str | None = setting(
        "auto",
        "Output channels of each convolution (CNN only; default: 16,32 for 28x28 gray; docs/defaults.md).",
        allowed="integers in [1, 1024], such as 16,32",
    )
    kernels: str | None = setting(
        "auto",
        "Kernel size of each convolution, or one size for all (CNN only; default: 5,3 for 28x28 gray, else 3).",
        allowed="integers in [1, 15], one or as many as conv_channels has",
        unit="pixels",
    )
    strides: str | None = setting(
        "auto",
        "Stride of each convolution, or one stride for all (CNN only; default: 2,1 for 28x28 gray).",
        allowed="integers in [1, 8], one or as many as conv_channels has",
        unit="pixels",
    )
    padding: Literal["auto", "valid", "same"] | None = setting(
        "auto",
        "Zero padding: valid (none) or same (keeps the size) (CNN only; default: valid for 28x28 gray, else same).",
    )
    pool: Literal["auto", "last", "each", "none"] | None = setting(
        "auto", "Convolutions followed by 2x2 max pooling (CNN only; default: last for 28x28 gray, else each)."
    )
    dense_width: Width | None = setting("auto", "Neurons of the dense block (CNN only; default: 128).", unit="neurons")
    dense_dropout: Probability | None = setting(
        "auto", "Dropout probability after the dense block (CNN only; default: 0.25)."
    )

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        if value not in ("mlp", "cnn") and not GRAPH_MODEL.fullmatch(value):
            raise ValueError(suggest(value, ("mlp", "cnn")))
        return value

    @property
    def family(self) -> Family:
        """`mlp` or `cnn`, by which default classes are chosen; any network that was not built here counts as `cnn`."""
        return "mlp" if self.model == "mlp" else "cnn"

    @field_validator("conv_channels", "kernels", "strides")
    @classmethod
    def _valid_sizes(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or value == "auto":
            return value
        sizes = parse_sizes(value, MAX_SIZES[str(info.field_name)])
        channels = info.data.get("conv_channels")
        if channels and channels != "auto" and len(sizes) not in (1, count := len(channels.split(","))):
            raise ValueError(f"there are {count} convolutions (conv_channels={channels})")
        return ",".join(map(str, sizes))


def family_default(value: Any, info: ValidationInfo) -> Any:
    """Replace `auto` with the family's default, or with None for a parameter of another family.

    Raises:
        ValueError: A value was set for a parameter that the family does not have.
    """
    model = info.data.get("model", "mlp")  # missing if model itself was invalid
    defaults, name = FAMILY_DEFAULTS.get(model, FAMILY_DEFAULTS[GRAPH]), str(info.field_name)
    if value == "auto" or (value is None and name not in defaults):
        return defaults.get(name)
    if name not in defaults:
        others = " or ".join(other for other, fields in FAMILY_DEFAULTS.items() if name in fields)
        raise ValueError(f"only valid with model={others}; remove it, or change model")
    return value


def parse_sizes(text: str, largest: int) -> tuple[int, ...]:
    """Return the integers in a list such as `16,32`.

    Raises:
        ValueError: Bad syntax, or a size outside [1, `largest`].
    """
    words = str(text).replace(" ", "").split(",")
    if not all(re.fullmatch(r"\d{1,6}", word) and 1 <= int(word) <= largest for word in words) or len(words) > 20:
        raise ValueError(f"give up to 20 integers in [1, {largest}], separated by commas")
    return tuple(map(int, words))
