"""Resolve `augment=auto` from the images and from which blocks are trained."""

from __future__ import annotations

from pipeline.data.sources.mnist_family import FAMILY
from pipeline.data.splits import Split
from pipeline.params.entry_points import FitParams

SMALL_GRAY = 40  # pixels; smaller gray images are digits and letters, which must not be mirrored
# Datasets whose classes may change when an image is mirrored, also where a base needs them larger and in color: digits,
# letters, house numbers, traffic signs, rendered text.
DIRECTED = (
    "digits",
    *FAMILY,
    *(f"torchvision:{name}" for name in ("EMNIST", "USPS", "SVHN", "GTSRB", "RenderedSST2")),
)


def resolve_augment(params: FitParams, split: Split, *, frozen: int = 0) -> str:
    """Return the augmentation: the parameter, else the default for the images.

    Frozen blocks get no augmented images, so that training with and without cached features is the same.

    Args:
        params: Of the stage.
        split: The images.
        frozen: Number of frozen blocks.
    """
    if params.augment != "auto":
        return params.augment
    return "crop_flip" if frozen == 0 and are_photos(split) else "none"


def are_photos(split: Split) -> bool:
    """Return whether a mirrored image still belongs to its class, judged by dataset, channels and size."""
    channels, height, width = split.image_shape
    return split.dataset.partition("/")[0] not in DIRECTED and (channels > 1 or min(height, width) >= SMALL_GRAY)
