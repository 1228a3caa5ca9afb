"""The default batch size for small data: with a few large batches, an epoch has too few optimizer steps.

A module of its own, since bases, targets and search spaces share the rule.
"""

import logging

logger = logging.getLogger(__name__)

MIN_BATCHES = 3  # full batches per epoch below which the default is lowered
STEPS_PER_EPOCH = 10
MIN_BATCH_SIZE = 8


def default_batch_size(default: int, images: int) -> int:
    """Return the default batch size for a number of training images.

    If `default` leaves fewer than three full batches per epoch, it is lowered to the largest power of two that leaves
    ten, but not below 8, and never above the number of images. Source: docs/defaults.md.
    """
    if images >= MIN_BATCHES * default:
        return default
    largest = 1 << max(0, (images // STEPS_PER_EPOCH).bit_length() - 1)
    return min(default, max(largest, MIN_BATCH_SIZE), images)


def log_default_batch_size(default: int, images: int) -> None:
    """Log the default batch size and why it is lower than the usual default, if it is."""
    if (lowered := default_batch_size(default, images)) < default:
        reason = f"{images} training images are fewer than {MIN_BATCHES} batches of {default} per epoch"
        logger.info("batch_size: lowered from %d to %d (%s)", default, lowered, reason)
