"""Read one untrusted image file: format, mode and size are checked before it is decoded."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.idx import SIDE
from pipeline.errors import DataFileError, Fault

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")  # others may start programs (EPS)
MAX_IMAGE_PIXELS = 64_000_000  # a small file can claim any size; decoding this many takes 0.3 GB


def read_grey_image(path: Path) -> Tensor:
    """Return an image as uint8 (1, 28, 28).

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
            grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow's decoders raise exceptions of any type
        fault = Fault("dataset", path, f"cannot be read as an image: {error}.", "Repair or remove it.")
        raise DataFileError(fault) from None
    return torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).reshape(1, SIDE, SIDE)
