"""Preprocessing of images: geometry (size, channels, resizing) and normalization.

The preprocessing of a base is stored with its architecture and also applied to the images of every target. Decoding
applies the geometry; networks normalize inside their graph. Without a base, a
`GeometryRequest` is resolved to a geometry that suits the images.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 8, 1024  # allowed values of image_size, in pixels
DEFAULT_IMAGE_SIZE = 64  # side in pixels, for sources with images of different sizes
Side = Annotated[int, Field(ge=1, le=16_384)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Geometry(BaseModel):
    """Size, channels and resizing of decoded images; part of the key of an image store.

    Attributes:
        size: (H, W) of the network's input, in pixels.
        channels: 1 (gray) or 3 (RGB).
        resize: `fit` resizes the short side to side / `crop_ratio` and center-crops; `stretch` ignores the aspect
            ratio; `pad` resizes the long side and pads with black.
        crop_ratio: Side of the center crop as a fraction of the resized short side; used by `fit` only.
        interpolation: Pillow's resampling filter.
        antialias: Whether to widen the filter when downsampling.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: tuple[Side, Side]
    channels: Literal[1, 3]
    resize: Literal["fit", "stretch", "pad"] = "fit"
    crop_ratio: Fraction = 1.0
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    antialias: bool = True

    @model_validator(mode="after")
    def _filter_exists(self) -> Self:
        if self.interpolation == "lanczos" and not self.antialias:
            raise ValueError("interpolation=lanczos requires antialias=true")
        return self

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, *self.size

    def resolve(self, native_size: tuple[int, int] | None, *, gray: bool) -> Self:
        """Return this geometry, whatever the images; see `GeometryRequest.resolve`."""
        return self

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
        """The geometry without the normalization."""
        return Geometry(**{name: getattr(self, name) for name in Geometry.model_fields})


@dataclass(frozen=True)
class GeometryRequest:
    """The geometry that a user requested; `auto` derives a value from the images.

    Attributes:
        image_size: Side of square images, or `HxW`, in pixels.
        channels: 1 (gray) or 3 (RGB).
        resize: How to resize images of another aspect ratio; see `Geometry`.
    """

    image_size: int | str = "auto"
    channels: Literal["auto", 1, 3] = "auto"
    resize: Literal["auto", "fit", "stretch", "pad"] = "auto"

    def resolve(self, native_size: tuple[int, int] | None, *, gray: bool) -> Geometry:
        """Return the geometry for a source of images.

        Args:
            native_size: (H, W) of all its images in pixels; None if they differ.
            gray: Whether all its images are gray.
        """
        sides = native_size or ()
        usable = bool(sides) and all(MIN_IMAGE_SIZE <= side <= MAX_IMAGE_SIZE for side in sides)
        size = parse_image_size(self.image_size) or (native_size if usable else None)
        return Geometry(
            size=size or (DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE),
            channels=(1 if gray else 3) if self.channels == "auto" else self.channels,
            resize="fit" if self.resize == "auto" else self.resize,
        )


def parse_image_size(value: int | str) -> tuple[int, int] | None:
    """Return (H, W) of `64`, `"64"` or `"48x64"`; None for `auto`.

    Raises:
        ValueError: The text has another form, or a side is out of range.
    """
    if value == "auto":
        return None
    sides = str(value).split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise ValueError("must be auto, a number of pixels such as 64, or HxW such as 48x64")
    height, width = int(sides[0]), int(sides[-1])
    if not all(MIN_IMAGE_SIZE <= side <= MAX_IMAGE_SIZE for side in (height, width)):
        raise ValueError(f"must be in [{MIN_IMAGE_SIZE}, {MAX_IMAGE_SIZE}] pixels")
    return height, width
