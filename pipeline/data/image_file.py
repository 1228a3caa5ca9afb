"""Reading one image file that may come from anyone: its format, kind and size are looked at before it is unpacked."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.idx import SIDE
from pipeline.errors import DataFileError, Fault

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")  # others may start programs (EPS) or are animations
MAX_IMAGE_PIXELS = 64_000_000  # a small file may claim any size; this one takes 0.3 GB to unpack


def read_grey_image(path: Path) -> Tensor:
    """Return one image file as uint8 (1, 28, 28).

    Raises:
        DataFileError: The file is not an image, is truncated, or unreasonably large.
    """
    from PIL import Image

    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise ValueError("it is not a regular file")
        quiet = warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)
        with quiet, Image.open(path, formats=IMAGE_FORMATS) as image:  # the limit here is lower than Pillow's
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise ValueError(
                    f"{image.width} x {image.height} pixels are more than the {MAX_IMAGE_PIXELS} that are read"
                )
            grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise DataFileError(
            Fault("dataset", path, f"cannot be read as an image: {error}.", "Repair or remove it.")
        ) from None
    return torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).reshape(1, SIDE, SIDE)
