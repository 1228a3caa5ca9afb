"""The two network families: which parameters each has, and what their defaults are."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator

from pipeline.errors import suggest
from pipeline.params.base import setting
from pipeline.params.training import LEARNING_RATE, WHOLE, MachineParams, TrainingParams

Family = Literal["mlp", "cnn"]
FAMILIES: tuple[Family, ...] = ("mlp", "cnn")

# Defaults that depend on the network family. A name that a family lacks is not a parameter of it.
FAMILY_DEFAULTS: dict[Family, dict[str, Any]] = {
    "mlp": {
        "classes": "0-4",
        "epochs": 100,
        "patience": 20,
        "learning_rate": 0.001,
        "hidden_layers": 5,
        "width": 100,
        "batch_norm": False,
        "dropout": 0.0,
    },
    "cnn": {
        "classes": "0-6",
        "epochs": 30,
        "patience": 6,
        "learning_rate": 0.002,
        "batch_norm": True,
        "dropout": 0.1,
        "channels": "16,32",
        "kernels": "5,3",
        "strides": "2,1",
        "pool": "last",
        "dense_width": 128,
        "dense_dropout": 0.25,
    },
}
FAMILY_FIELDS = tuple(dict.fromkeys(name for defaults in FAMILY_DEFAULTS.values() for name in defaults))


class FamilyChoice(MachineParams):
    """The network family, which other defaults depend on."""

    model: Family = setting("mlp", "Network family.", allowed="mlp or cnn")

    @field_validator("model", mode="before")
    @classmethod
    def _known_family(cls, value: Any) -> Any:
        if value not in FAMILIES:
            raise ValueError(suggest(str(value), FAMILIES))
        return value


class FamilyParams(TrainingParams, FamilyChoice):
    """The shape of a network of one of the two families; what belongs to the other family is None."""

    epochs: int = setting(
        "auto",
        "The most epochs to train; 100 for an MLP, 30 for a CNN.",
        allowed=WHOLE,
        unit="epochs",
        ge=1,
        le=100_000,
    )
    patience: int = setting(
        "auto",
        "Stop when validation loss has not improved for this long; 20 for an MLP, 6 for a CNN.",
        allowed=WHOLE,
        unit="epochs",
        ge=1,
        le=100_000,
    )
    learning_rate: float = setting(
        "auto", "Adam's learning rate; 0.001 for an MLP, 0.002 for a CNN.", allowed=LEARNING_RATE, gt=0, le=10
    )
    hidden_layers: int | None = setting(
        "auto", "Hidden layers (MLP only; 5).", allowed="a whole number from 1 to 100", ge=1, le=100
    )
    width: int | None = setting(
        "auto",
        "Neurons in each hidden layer (MLP only; 100).",
        allowed="a whole number from 1 to 16384",
        unit="neurons",
        ge=1,
        le=16_384,
    )
    batch_norm: bool = setting(
        "auto", "Batch normalization before each ReLU; false for an MLP, true for a CNN.", allowed="true or false"
    )
    dropout: float = setting(
        "auto",
        "Share of a block's outputs dropped while training; 0 for an MLP, 0.1 of the channels for a CNN.",
        allowed="a number from 0 to below 1",
        unit="fraction",
        ge=0,
        lt=1,
    )
    channels: str | None = setting(
        "auto", "Channels of each convolution (CNN only; 16,32).", allowed="whole numbers from 1 to 1024, such as 16,32"
    )
    kernels: str | None = setting(
        "auto",
        "Side of each convolution's kernel, one for all or one each (CNN only; 5,3).",
        allowed="whole numbers from 1 to 15, one or as many as channels has",
        unit="pixels",
    )
    strides: str | None = setting(
        "auto",
        "Stride of each convolution, one for all or one each (CNN only; 2,1).",
        allowed="whole numbers from 1 to 8, one or as many as channels has",
        unit="pixels",
    )
    pool: Literal["last", "each", "none"] | None = setting(
        "auto", "Which convolutions are followed by 2x2 max-pooling (CNN only; last).", allowed="last, each or none"
    )
    dense_width: int | None = setting(
        "auto",
        "Neurons of the dense block (CNN only; 128).",
        allowed="a whole number from 1 to 16384",
        unit="neurons",
        ge=1,
        le=16_384,
    )
    dense_dropout: float | None = setting(
        "auto",
        "Share of the dense block's outputs dropped while training (CNN only; 0.25).",
        allowed="a number from 0 to below 1",
        unit="fraction",
        ge=0,
        lt=1,
    )

    @field_validator(*FAMILY_FIELDS, mode="before", check_fields=False)
    @classmethod
    def _family_default(cls, value: Any, info: ValidationInfo) -> Any:
        """Replace auto by the family's default; refuse what the family does not have."""
        family: Family = info.data.get("model", "mlp")  # where the family was refused, the MLP's ranges will do
        defaults = FAMILY_DEFAULTS[family]
        assert info.field_name is not None
        if value == "auto" or (value is None and info.field_name not in defaults):
            return defaults.get(info.field_name)
        if info.field_name not in defaults:
            owners = [name for name, own in FAMILY_DEFAULTS.items() if info.field_name in own]
            raise ValueError(f"a parameter of model={owners[0]}, and model={family} was asked for; leave it out")
        return value

    @field_validator("batch_norm")
    @classmethod
    def _batch_of_several(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("batch_size") == 1:
            raise ValueError("batch norm needs batches of at least 2 images; raise batch_size")
        return value

    @field_validator("channels", "kernels", "strides")
    @classmethod
    def _sizes(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        assert info.field_name is not None
        sizes = parse_sizes(value, {"channels": 1024, "kernels": 15, "strides": 8}[info.field_name])
        channels = info.data.get("channels")
        if info.field_name != "channels" and channels and len(sizes) not in (1, len(parse_sizes(channels, 1024))):
            raise ValueError(f"channels={channels} has {len(parse_sizes(channels, 1024))} convolutions")
        return ",".join(map(str, sizes))


def parse_sizes(text: str, largest: int) -> tuple[int, ...]:
    """Return the sizes that a text such as `16,32` names.

    Raises:
        ValueError: It is not of that form, or a size is not from 1 to `largest`.
    """
    words = str(text).replace(" ", "").split(",")
    if not all(re.fullmatch(r"\d{1,6}", word) and 1 <= int(word) <= largest for word in words) or len(words) > 20:
        raise ValueError("not whole numbers in that range, separated by commas")
    return tuple(map(int, words))
