"""Read one untrusted image file: format, mode and size are checked before it is decoded."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.preprocessing import Geometry
from pipeline.errors import DataFileError, Fault

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")  # others may start programs (EPS)
MAX_IMAGE_PIXELS = 64_000_000  # a small file can claim any size; decoding this many takes 0.3 GB


def read_image(path: Path, geometry: Geometry) -> Tensor:
    """Return an image as uint8 (C, H, W).

    Raises:
        DataFileError: The file is not an image, is truncated, or has too many pixels.
    """
    from PIL import Image

    try:
        if not path.is_file():  # opening a pipe would block
            raise ValueError("it is not a regular file")
        no_warning = warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)
        with no_warning, Image.open(path, formats=IMAGE_FORMATS) as image:  # our limit is below Pillow's
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels exceed the limit of {MAX_IMAGE_PIXELS}")
            small = image.convert("L" if geometry.channels == 1 else "RGB")
            small = small.resize(geometry.size[::-1], Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow's decoders raise exceptions of any type
        fault = Fault("dataset", path, f"cannot be read as an image: {error}.", "Repair or remove it.")
        raise DataFileError(fault) from None
    flat = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
    return flat.reshape(*geometry.size, geometry.channels).permute(2, 0, 1).contiguous()
