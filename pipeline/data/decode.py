"""Decode one untrusted image file, and resize images to a geometry.

Format and number of pixels are checked before a file is decoded. The decoded image is *canonical*: upright (EXIF
orientation applied), 8 bits, gray (H, W, 1) or RGB (H, W, 3). Imports no torch, so that worker processes start quickly.
"""

import io
import math
import os
import stat
import warnings
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.data.preprocessing import Geometry
from pipeline.errors import DataFileError, Fault

Pixels = NDArray[np.uint8]

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF")  # others may start programs (EPS)
IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".webp", ".gif",
)  # fmt: skip
MAX_IMAGE_PIXELS = 64_000_000  # a small file can claim any size; decoding this many takes 0.3 GB
MAX_FILE_BYTES = 512 << 20
ORIENTATION_TAG = 0x0112
FULL_16_BIT = 65_535
MAX_SCALED_RATIO = (
    16  # scaled image to center crop, in pixels; scaling a 1 x 64,000,000 image whole would exhaust memory
)
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class UnreadableImageError(ValueError):
    """A file is not an image, is truncated, or has too many pixels."""


class FileChangedError(RuntimeError):
    """A file changed while it was read, or since it was listed."""


class FileState(NamedTuple):
    """Size in bytes and modification time in nanoseconds; a file that differs in either has changed."""

    size: int
    mtime: int


def read_image(path: Path) -> Pixels:
    """Return the canonical image in a file, uint8 (H, W, C).

    Raises:
        DataFileError: The file is not an image, is truncated, has too many pixels, or changes while it is read.
    """
    try:
        return decode(read_bytes(path))
    except (OSError, UnreadableImageError, FileChangedError) as error:
        why = error.strerror or error if isinstance(error, OSError) else error
        raise DataFileError(Fault("dataset", path, f"cannot be read as an image: {why}.", "Repair it.")) from None


def read_bytes(path: Path | str, expected: FileState | None = None) -> bytes:
    """Return the content of an image file, read once.

    Args:
        path: Path of the file.
        expected: State of the file when it was listed; None accepts any.

    Raises:
        OSError: The file cannot be opened or read.
        UnreadableImageError: The file is not a regular file, or exceeds `MAX_FILE_BYTES`.
        FileChangedError: The file is being written, or has changed since it was listed.
    """
    descriptor = os.open(
        path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    )  # O_NONBLOCK: opening a named pipe must not hang
    try:  # a file object takes three times as long, which matters for small images
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise UnreadableImageError("it is not a regular file")
        if before.st_size > MAX_FILE_BYTES:
            raise UnreadableImageError(f"{before.st_size} bytes exceed the limit of {MAX_FILE_BYTES}")
        content = os.read(descriptor, before.st_size)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    state = FileState(after.st_size, after.st_mtime_ns)
    if state != (expected or FileState(before.st_size, before.st_mtime_ns)) or len(content) != state.size:
        raise FileChangedError("it changed while it was read")
    return content


def byte_digest(content: bytes) -> bytes:
    """Return 16 bytes that identify the content of a file."""
    return blake2b(content, digest_size=16).digest()


def decode(content: bytes) -> Pixels:
    """Return the canonical image in the bytes of a file, uint8 (H, W, 1) or (H, W, 3).

    Raises:
        UnreadableImageError: The bytes cannot be decoded; the message says why.
    """
    return as_pixels(decode_image(content))


def decode_image(content: bytes) -> Image.Image:
    """Return the canonical image in the bytes of a file, in mode L or RGB.

    Raises:
        UnreadableImageError: The bytes cannot be decoded; the message says why.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                size = f"{image.width} x {image.height}"
                raise UnreadableImageError(f"{size} pixels exceed the limit of {MAX_IMAGE_PIXELS}")
            image.load()
            upright: Image.Image = image
            if image.getexif().get(ORIENTATION_TAG, 1) != 1:
                upright = ImageOps.exif_transpose(image)
            return canonical(upright)
    except UnreadableImageError:
        raise
    except Exception as error:  # Pillow's decoders raise exceptions of any type
        text = (str(error) or type(error).__name__).split(" <_io.BytesIO")[0].rstrip(".")
        raise UnreadableImageError(text) from None


def as_pixels(image: Image.Image) -> Pixels:
    """Return the pixels of an image in mode L or RGB, uint8 (H, W, 1) or (H, W, 3)."""
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def canonical(image: Image.Image) -> Image.Image:
    """Return a decoded image in mode L or RGB.

    Transparent pixels are composited on white. 16-bit gray is divided by 257, so that 65,535 becomes 255; 32-bit and
    floating-point gray is min-max scaled to [0, 255] per image.

    Raises:
        UnreadableImageError: A floating-point pixel is not finite.
    """
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _from_16_bit(np.asarray(image).astype(np.float64))
    if image.mode == "I" and image.format == "PPM":  # Pillow's mode for 16-bit PGM files
        return _from_16_bit(np.asarray(image).astype(np.float64))
    if image.mode in ("I", "F"):
        return _min_max_scaled(np.asarray(image).astype(np.float64))
    if image.has_transparency_data or image.mode in ("LA", "La", "RGBA", "RGBa", "PA"):
        return _composite_on_white(image)
    return image.convert("L" if image.mode == "1" else "RGB")


def _composite_on_white(image: Image.Image) -> Image.Image:
    gray = image.mode in ("1", "L", "LA", "La")
    opaque = image.convert("LA" if gray else "RGBA")
    mode = "L" if gray else "RGB"
    white = Image.new(mode, image.size, "white")
    return Image.composite(opaque.convert(mode), white, opaque.getchannel("A"))


def _from_16_bit(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray((values * (255 / FULL_16_BIT)).round().clip(0, 255).astype(np.uint8))


def _min_max_scaled(values: NDArray[np.float64]) -> Image.Image:
    low, high = values.min(), values.max()
    if not math.isfinite(low) or not math.isfinite(high):
        raise UnreadableImageError("its floating-point pixels are not all finite")
    scale = 255 / (high - low) if high > low else 0.0
    return Image.fromarray(((values - low) * scale).round().astype(np.uint8))


def resize(pixels: Pixels, geometry: Geometry) -> Pixels:
    """Resize and convert canonical pixels uint8 (H, W, 1) or (H, W, 3); see `resize_image`."""
    return resize_image(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels), geometry)


def resize_image(image: Image.Image, geometry: Geometry) -> Pixels:
    """Resize and convert an image to a geometry; the pixels of an image that already matches are unchanged.

    `fit` is torchvision's `Resize` followed by `CenterCrop`.

    Args:
        image: Canonical image, in mode L or RGB.
        geometry: Geometry of the result.

    Returns:
        uint8 (C, H, W).
    """
    cropped = geometry.resize == "fit" and geometry.crop_ratio < 1
    if geometry.channels == 1 and image.mode != "L":
        image = image.convert("L")
    if (image.height, image.width) != geometry.size or cropped:
        image = _resized(image, geometry)
    channels_first = as_pixels(image).transpose(2, 0, 1)
    if len(channels_first) != geometry.channels:
        channels_first = np.broadcast_to(channels_first, geometry.image_shape)
    return np.ascontiguousarray(channels_first)


def _resized(image: Image.Image, geometry: Geometry) -> Image.Image:
    if geometry.resize == "stretch":
        return _scaled(image, geometry.size, geometry)
    return (_fitted if geometry.resize == "fit" else _padded)(image, geometry)


def _fitted(picture: Image.Image, geometry: Geometry) -> Image.Image:
    """Scale until both sides are at least side / crop_ratio, and keep the center.

    For very elongated images, only the center is resampled; rounding may then differ slightly.
    """
    height, width = geometry.size
    needed_height, needed_width = (math.floor(side / geometry.crop_ratio + 1e-6) for side in geometry.size)
    if needed_height / picture.height >= needed_width / picture.width:
        scaled = needed_height, max(needed_width, int(needed_height * picture.width / picture.height))
    else:
        scaled = max(needed_height, int(needed_width * picture.height / picture.width)), needed_width
    top, left = round((scaled[0] - height) / 2), round((scaled[1] - width) / 2)
    if math.prod(scaled) <= MAX_SCALED_RATIO * height * width:
        return _scaled(picture, scaled, geometry).crop((left, top, left + width, top + height))
    y_step, x_step = picture.height / scaled[0], picture.width / scaled[1]
    box = left * x_step, top * y_step, (left + width) * x_step, (top + height) * y_step
    inside = (*box[:2], min(box[2], picture.width), min(box[3], picture.height))
    return _scaled(picture, geometry.size, geometry, box=inside)


def _padded(picture: Image.Image, geometry: Geometry) -> Image.Image:
    """Scale until the image fits, and center it on black."""
    height, width = geometry.size
    scale = min(height / picture.height, width / picture.width)
    inner_height = max(1, min(height, round(scale * picture.height)))
    inner_width = max(1, min(width, round(scale * picture.width)))
    canvas = Image.new(picture.mode, (width, height))
    inner = _scaled(picture, (inner_height, inner_width), geometry)
    canvas.paste(inner, ((width - inner_width) // 2, (height - inner_height) // 2))
    return canvas


def _scaled(
    picture: Image.Image, size: tuple[int, int], geometry: Geometry, *, box: tuple[float, ...] | None = None
) -> Image.Image:
    """Scale a box (left, top, right, bottom; by default everything) to (H, W)."""
    height, width = size
    left, top, right, bottom = box or (0.0, 0.0, float(picture.width), float(picture.height))
    resample = FILTERS[geometry.interpolation]
    if geometry.antialias or geometry.interpolation == "nearest":
        return picture.resize((width, height), resample, (left, top, right, bottom))
    matrix = ((right - left) / width, 0.0, left, 0.0, (bottom - top) / height, top)
    return picture.transform((width, height), Image.Transform.AFFINE, matrix, resample)
