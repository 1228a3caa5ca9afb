"""How an image file becomes the input of a network: geometry (size, channels, resizing) and normalization.

The record belongs to a base network, is stored in its architecture, and is applied to the images of every target.
`data` applies the geometry when it decodes; networks normalize inside their graph.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 8, 1024
Side = Annotated[int, Field(ge=1, le=16_384)]
Fraction = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class GeometryRequest:
    """The geometry that parameters request; `auto` leaves a part to the data set."""

    image_size: int | str = "auto"  # or HEIGHTxWIDTH
    channels: int | Literal["auto"] = "auto"
    resize: Literal["auto", "fit", "stretch", "pad"] = "auto"


class Geometry(BaseModel):
    """What decoding depends on, and so the key of a decoded image store.

    Attributes:
        size: (H, W) of the network's input, in pixels.
        channels: 1 (grey) or 3 (RGB).
        resize: `fit` resizes the short side to side / `crop_ratio` and center-crops; `stretch` ignores the aspect
            ratio; `pad` resizes the long side and pads with black.
        crop_ratio: Side of the center crop as a fraction of the resized short side; used by `fit` only.
        interpolation: Pillow's resampling filter.
        antialias: Whether the filter's support grows when an image is made smaller.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: tuple[Side, Side]
    channels: Literal[1, 3]
    resize: Literal["fit", "stretch", "pad"] = "fit"
    crop_ratio: Fraction = 1.0
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    antialias: bool = True

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, *self.size

    @property
    def digest(self) -> str:
        """32 hexadecimal digits over all fields."""
        text = Geometry.model_dump_json(self, include=set(Geometry.model_fields))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class Preprocessing(Geometry):
    """Geometry and normalization: a network's input is (pixels / 255 - mean) / std per channel.

    Attributes:
        mean: One value per channel, in [0, 1]; None for 0.
        std: One value per channel, above 0; None for 1.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> Preprocessing:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels")
        return self

    @property
    def geometry(self) -> Geometry:
        """The part that decoding depends on."""
        return Geometry(**{name: getattr(self, name) for name in Geometry.model_fields})
