"""The identity of an image: a digest of its pixels, independent of its position in a dataset.

The digest covers the upright image in 8 bits at its native size, so that editing an EXIF tag or reordering files
changes nothing. An RGB image with three equal channels has the identity of the gray image.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor  # imported lazily: decoding workers start without it


def content_id(pixels: NDArray[np.uint8]) -> int:
    """Return the identity of one image, in [0, 2**63): an XXH3 digest, about a hundred times faster than decoding.

    The collision probability among a million distinct images is 5e-8.

    Args:
        pixels: uint8 (H, W) or (H, W, C), with 1 or 3 channels.
    """
    if pixels.ndim == 3 and (pixels.shape[2] == 1 or _is_gray(pixels)):
        pixels = pixels[:, :, 0]
    digest = xxhash.xxh3_64(str(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.intdigest() >> 1


def content_ids(pixels: Tensor) -> Tensor:
    """Return the identities int64 (N,) of images uint8 (N, C, H, W)."""
    import torch

    images = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return torch.tensor([content_id(image) for image in images], dtype=torch.int64)


def _is_gray(pixels: NDArray[np.uint8]) -> bool:
    red, green, blue = pixels[0, 0].tolist()  # shortcut for most color images
    return red == green == blue and bool((pixels[..., :1] == pixels[..., 1:]).all())


def ranks(ids: Tensor, *purpose: object) -> Tensor:
    """Return pseudo-random ranks int64 (N,) of identities; each purpose gives an independent ranking.

    Equal identities have equal ranks, and a rank does not depend on the other images: a sample of the lowest ranks
    changes little when images are added. The mixing function is the finalizer of SplitMix64.

    Source: Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators.
    """
    import torch

    salt = hashlib.blake2b(":".join(map(str, purpose)).encode(), digest_size=8).digest()
    with np.errstate(over="ignore"):
        x = ids.numpy().astype(np.uint64) + np.uint64(int.from_bytes(salt, "big"))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return torch.from_numpy((x >> np.uint64(1)).astype(np.int64))
