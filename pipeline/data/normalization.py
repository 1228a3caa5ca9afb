"""Resolve the preprocessing of a base: geometry from its dataset, mean and standard deviation from its parameters."""

import hashlib
from typing import TypeVar

import torch

from pipeline.data.examples import Examples
from pipeline.data.preprocessing import Geometry, Preprocessing
from pipeline.errors import Fault, UserInputError
from pipeline.params.data import PREPROCESSING_FIELDS, DataParams, parse_statistic

SMALL_SIDE = 40  # pixels; smaller gray images (digits and the like) train well without normalization
CHUNK_BYTES = 32 << 20  # pixels that are read at once
DECIMALS = 4  # measured values are rounded, so that the logged parameters reproduce the network
MIN_STD = 1 / 255  # lower bound, for constant images

P = TypeVar("P", bound=DataParams)


def resolve_preprocessing(params: DataParams, geometry: Geometry, train: Examples) -> Preprocessing:
    """Return the preprocessing of a base that is trained on `train`.

    Raises:
        UserInputError: `mean` or `std` does not have one value per channel.
    """
    is_digit_like = geometry.channels == 1 and max(geometry.size) < SMALL_SIDE
    words = {name: getattr(params, name) for name in ("mean", "std")}
    words = {
        name: ("none" if is_digit_like else "measured") if word == "auto" else word for name, word in words.items()
    }
    measured = dict(zip(("mean", "std"), measure(train), strict=True)) if "measured" in words.values() else {}
    values: dict[str, object] = {"mean": None, "std": None}
    for name, word in words.items():
        if word != "none":
            values[name] = measured[name] if word == "measured" else parse_channel_values(params, name, geometry)
    return Preprocessing.model_validate(geometry.model_dump() | values)


def parse_channel_values(params: DataParams, name: str, geometry: Geometry) -> tuple[float, ...]:
    """Parse `mean` or `std` to one value per channel; a single value applies to all channels."""
    text: str = getattr(params, name)
    numbers = parse_statistic(text, positive=name == "std")
    if len(numbers) not in (1, geometry.channels):
        what = f"has {len(numbers)} values, and the images have {geometry.channels} channels."
        raise UserInputError(Fault(name, text, what, "Give one value per channel."))
    return numbers * (geometry.channels // len(numbers))


def measure(examples: Examples) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of pixels / 255 per channel, rounded; reads the images in chunks."""
    channels, height, width = examples.image_shape
    counts = torch.zeros(
        channels, 256, dtype=torch.int64
    )  # integer counts: the result does not depend on the chunk size
    for positions in torch.arange(len(examples)).split(max(1, CHUNK_BYTES // (channels * height * width))):
        pixels = examples.gather(positions)
        for channel in range(channels):
            counts[channel] += torch.bincount(pixels[:, channel].flatten(), minlength=256)
    shares = counts.double() / counts.sum(1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64) / 255
    means = shares @ levels
    deviations = (shares @ levels.square() - means.square()).clamp(min=MIN_STD**2).sqrt()
    rounded = (tuple(round(value, DECIMALS) for value in values.tolist()) for values in (means, deviations))
    return next(rounded), next(rounded)


def with_preprocessing(params: P, preprocessing: Preprocessing) -> P:
    """Return parameters with the resolved preprocessing filled in, as they are logged."""
    height, width = preprocessing.size
    return params.model_copy(
        update={
            "image_size": str(height) if height == width else f"{height}x{width}",
            "channels": str(preprocessing.channels),
            "resize": preprocessing.resize,
            "mean": _format_values(preprocessing.mean),
            "std": _format_values(preprocessing.std),
        }
    )


def _format_values(values: tuple[float, ...] | None) -> str:
    return "none" if values is None else ",".join(map(str, values))


def conflicts(params: DataParams, preprocessing: Preprocessing) -> list[Fault]:
    """Return a fault for each parameter that contradicts the preprocessing of a base."""
    faults = []
    for name in PREPROCESSING_FIELDS:
        value = getattr(params, name)
        base_value = getattr(with_preprocessing(params, preprocessing), name)
        if value in ("auto", base_value) or (name in ("mean", "std") and _same_numbers(name, value, preprocessing)):
            continue
        faults.append(Fault(name, value, f"the base has {name}={base_value}.", "Leave it out, or choose another base."))
    return faults


def _same_numbers(name: str, text: str, preprocessing: Preprocessing) -> bool:
    """Return whether `mean` or `std` has the same values as the base; a single value applies to all channels."""
    values: tuple[float, ...] | None = getattr(preprocessing, name)
    if values is None or text in ("none", "measured"):
        return False
    numbers = parse_statistic(text, positive=name == "std")
    return len(values) % len(numbers) == 0 and numbers * (len(values) // len(numbers)) == values


def preprocessing_digest(preprocessing: Preprocessing) -> str:
    """Return 32 hexadecimal digits over geometry, mean and standard deviation."""
    return hashlib.sha256(preprocessing.model_dump_json().encode()).hexdigest()[:32]
