"""Which augmentation `augment=auto` is, from the images and from what is trained."""

from __future__ import annotations

from pipeline.data.splits import Split
from pipeline.params.entry_points import FitParams

SMALL_GRAY = 40  # pixels; smaller gray images are digits and letters, of which a mirror image is no example
# Color images whose class changes when they are mirrored: house numbers, traffic signs, rendered text.
DIRECTED = ("torchvision:SVHN", "torchvision:GTSRB", "torchvision:RenderedSST2")


def resolve_augment(params: FitParams, split: Split, *, frozen: int = 0) -> str:
    """Return the augmentation: the parameter, or what suits the images.

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
    """Return whether a mirror image is another example of its class, judged by dataset, channels and size."""
    channels, height, width = split.image_shape
    return split.dataset not in DIRECTED and (channels > 1 or min(height, width) >= SMALL_GRAY)
