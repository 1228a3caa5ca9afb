"""Decoding image files: every mode against hand-made files, untrusted input, and resizing to a geometry."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from pipeline.data import decode as decode_module
from pipeline.data.decode import (
    FileChangedError,
    FileState,
    UnreadableImageError,
    decode,
    read_bytes,
    read_image,
    resize,
)
from pipeline.data.identity import content_id
from pipeline.data.preprocessing import Geometry, GeometryRequest, parse_image_size
from pipeline.data.torchvision_import import make_importable
from pipeline.errors import DataFileError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_black_and_white_image_becomes_gray() -> None:
    image = Image.new("1", (3, 2), 0)
    image.putpixel((2, 1), 1)
    assert decode(encoded(image, "PNG"))[:, :, 0].tolist() == [[0, 0, 0], [0, 0, 255]]


def test_gray_image_keeps_its_values() -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    assert np.array_equal(decode(encoded(Image.fromarray(values), "PNG")), values[:, :, None])


def test_rgb_image_keeps_its_values() -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(values), "PNG")), values)


def test_palette_image_becomes_rgb() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF", "BMP"):
        assert decode(encoded(image, kind)).tolist() == [[[*RED], [*BLUE]]], kind


def test_transparent_palette_color_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        assert decode(encoded(image, kind, transparency=0)).tolist() == [[[*WHITE], [*BLUE]]], kind


@pytest.mark.parametrize(("mode", "color", "key"), [("L", 7, 7), ("RGB", RED, RED)])
def test_transparent_color_key_becomes_white(mode: str, color: object, key: object) -> None:
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((0, 0), color)  # type: ignore[arg-type]
    pixels = decode(encoded(image, "PNG", transparency=key))
    assert set(pixels[0, 0].tolist()) == {255} and set(pixels[0, 1].tolist()) == {0}


def test_black_icon_on_transparent_background_stays_visible() -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        assert decode(encoded(image, kind, **options)).tolist() == [[[255] * 3, [0] * 3, [127] * 3]], kind


def test_gray_with_alpha_is_composited_and_stays_gray() -> None:
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((1, 0), (100, 255))
    assert decode(encoded(image, "PNG"))[:, :, 0].tolist() == [[255, 100]]


@pytest.mark.parametrize("mode", ["PA", "RGBa", "La"])
def test_rare_alpha_modes_are_composited_on_white(mode: str) -> None:
    base = Image.new("LA" if mode == "La" else "RGBA", (1, 1), (0, 0) if mode == "La" else (9, 9, 9, 0))
    assert set(np.asarray(decode_module.canonical(base.convert(mode))).ravel().tolist()) == {255}


def test_16_bit_gray_uses_the_full_range() -> None:
    values = np.array([[0, 257, 32_896, 65_535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        assert decode(encoded(Image.fromarray(values), kind))[0, :, 0].tolist() == [0, 1, 128, 255], kind


def test_big_endian_16_bit_gray_is_read_correctly() -> None:
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 65_535, 256))
    assert np.asarray(decode_module.canonical(image))[0].tolist() == [255, 1]


def test_16_bit_pgm_uses_the_full_range() -> None:
    content = b"P5 3 1 65535\n" + struct.pack(">HHH", 0, 32_896, 65_535)
    assert decode(content)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_gray_is_stretched_from_its_own_range(dtype: type) -> None:
    image = Image.fromarray(np.array([[-100, 0, 155]], dtype))
    assert decode(encoded(image, "TIFF"))[0, :, 0].tolist() == [0, 100, 255]


def test_constant_floating_point_image_is_black() -> None:
    assert decode(encoded(Image.fromarray(np.full((2, 2), 3.5, np.float32)), "TIFF")).max() == 0


def test_floating_point_image_with_nan_is_rejected() -> None:
    image = Image.fromarray(np.array([[0, np.nan]], np.float32))
    with pytest.raises(UnreadableImageError, match="not all finite"):
        decode(encoded(image, "TIFF"))


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "JPEG"), ("LAB", "TIFF")])
def test_other_color_spaces_become_rgb(mode: str, kind: str) -> None:
    red = Image.new("RGB", (16, 16), (200, 40, 30))
    image = red.convert(mode) if mode != "LAB" else lab(red)
    pixels = decode(encoded(image, kind))
    assert pixels.shape == (16, 16, 3) and np.abs(pixels[8, 8].astype(int) - (200, 40, 30)).max() < 8


def lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transformed = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    assert transformed is not None
    return transformed


def test_hsv_image_becomes_rgb() -> None:
    image = Image.new("RGB", (2, 2), GREEN).convert("HSV")
    assert np.asarray(decode_module.canonical(image))[0, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind: str) -> None:
    image = Image.new("RGB", (32, 16), BLUE)
    image.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the left half comes to the top
    pixels = decode(encoded(image, kind, exif=exif))
    assert pixels.shape == (32, 16, 3)
    assert pixels[4, 8].argmax() == 0 and pixels[28, 8].argmax() == 2


def test_edited_exif_tag_keeps_the_identity() -> None:
    image = Image.effect_noise((20, 10), 50)
    exif = Image.Exif()
    exif[0x010E] = "another description"
    plain, tagged = encoded(image, "PNG"), encoded(image, "PNG", exif=exif)
    assert plain != tagged and content_id(decode(plain)) == content_id(decode(tagged))


def test_rgb_copy_of_gray_image_has_its_identity() -> None:
    image = Image.effect_noise((20, 10), 50)
    assert content_id(decode(encoded(image, "PNG"))) == content_id(decode(encoded(image.convert("RGB"), "PNG")))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation_is_used(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN)]
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert pixels[4, 4].tolist() == [*RED]


def bomb(side: int) -> bytes:
    """A PNG that claims `side` x `side` pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_001, 50_000])
def test_decompression_bomb_is_rejected_before_decoding(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.core, "new", lambda *_: pytest.fail("pixels were allocated"))
    with pytest.raises(UnreadableImageError, match="pixels"):
        decode(bomb(side))


def test_extreme_aspect_ratio_does_not_exhaust_memory() -> None:
    line = np.arange(40_000, dtype=np.uint8).reshape(1, -1, 1)
    assert resize(line, Geometry(size=(1024, 1024), channels=3)).shape == (3, 1024, 1024)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0"])
def test_non_image_is_rejected(content: bytes) -> None:
    with pytest.raises(UnreadableImageError, match="cannot identify image file"):
        decode(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM"])
def test_truncated_image_is_rejected(kind: str) -> None:
    content = encoded(Image.effect_noise((40, 40), 80), kind)
    with pytest.raises(UnreadableImageError):
        decode(content[: len(content) // 2])


def test_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(DataFileError, match=r"x\.png: cannot be read as an image: cannot identify image file\."):
        read_image(tmp_path / "x.png")
    with pytest.raises(DataFileError, match=r"none\.png: cannot be read as an image: No such file"):
        read_image(tmp_path / "none.png")


def test_file_that_changed_since_listing_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"1234")
    state = FileState(4, path.stat().st_mtime_ns)
    assert read_bytes(path, state) == b"1234"
    os.utime(path, ns=(1, 1))
    with pytest.raises(FileChangedError):
        read_bytes(path, state)


def test_file_that_grows_while_it_is_read_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"1234")
    states = iter([os.stat(path)])
    fstat = os.fstat

    def growing(descriptor: int) -> os.stat_result:
        first = next(states, None)
        if first is not None:
            with path.open("ab") as file:
                file.write(b"5")
            return first
        return fstat(descriptor)

    monkeypatch.setattr(decode_module.os, "fstat", growing)
    with pytest.raises(FileChangedError):
        read_bytes(path)


def test_named_pipe_is_rejected_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    errors: list[Exception] = []

    def read() -> None:
        try:
            read_bytes(tmp_path / "x.png")
        except UnreadableImageError as error:
            errors.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert "not a regular file" in str(errors[0])


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (64, 64), (33, 200), (20, 30)])
@pytest.mark.parametrize(("side", "ratio"), [(32, 1.0), (28, 0.875), (24, 0.9)])
def test_fit_equals_torchvision_resize_and_center_crop(shape: tuple[int, int], side: int, ratio: float) -> None:
    make_importable()
    from torchvision import transforms

    pixels = noise(*shape)
    geometry = Geometry(size=(side, side), channels=3, crop_ratio=ratio, interpolation="bicubic")
    short = int(side / ratio + 1e-6)
    steps = [transforms.Resize(short, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(side)]
    expected = np.asarray(transforms.Compose(steps)(Image.fromarray(pixels)))
    assert np.array_equal(resize(pixels, geometry).transpose(1, 2, 0), expected)


def test_stretch_ignores_the_aspect_ratio() -> None:
    pixels = noise(40, 80)
    expected = np.asarray(Image.fromarray(pixels).resize((20, 10), Image.Resampling.BILINEAR))
    resized = resize(pixels, Geometry(size=(10, 20), channels=3, resize="stretch"))
    assert np.array_equal(resized.transpose(1, 2, 0), expected)


def test_pad_keeps_the_whole_image_on_black() -> None:
    resized = resize(np.full((10, 40, 1), 200, np.uint8), Geometry(size=(20, 20), channels=1, resize="pad"))[0]
    assert (resized[7:12] == 200).all() and resized[:7].max() == 0 and resized[12:].max() == 0


def test_without_antialias_bilinear_interpolates_between_two_pixels() -> None:
    pixels = np.zeros((1, 8, 1), np.uint8)
    pixels[0, 0] = 200  # lies outside of the two pixels around the center of the left half
    plain, smooth = (
        resize(pixels, Geometry(size=(1, 2), channels=1, resize="stretch", antialias=antialias))
        for antialias in (False, True)
    )
    assert plain[0, 0, 0] == 0 < smooth[0, 0, 0]


@pytest.mark.parametrize("rule", ["fit", "stretch", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
def test_image_already_in_the_geometry_is_unchanged(rule: str, channels: int) -> None:
    pixels = noise(12, 16, channels)
    geometry = Geometry(size=(12, 16), channels=channels, resize=rule)  # type: ignore[arg-type]
    assert np.array_equal(resize(pixels, geometry), pixels.transpose(2, 0, 1))


def test_channels_are_converted() -> None:
    gray, color = noise(8, 8, 1), noise(8, 8, 3)
    tripled = resize(gray, Geometry(size=(8, 8), channels=3))
    assert np.array_equal(tripled, np.repeat(gray.transpose(2, 0, 1), 3, axis=0))
    luma = np.asarray(Image.fromarray(color).convert("L"))
    assert np.array_equal(resize(color, Geometry(size=(8, 8), channels=1))[0], luma)


@given(
    height=st.integers(1, 90), width=st.integers(1, 90), channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)), rule=st.sampled_from(["fit", "stretch", "pad"]),
    ratio=st.floats(0.1, 1), interpolation=st.sampled_from(["nearest", "bilinear", "bicubic"]), antialias=st.booleans(),
)  # fmt: skip
def test_any_image_fits_any_geometry(height, width, channels, size, rule, ratio, interpolation, antialias) -> None:  # type: ignore[no-untyped-def]
    geometry = Geometry(
        size=size, channels=channels, resize=rule, crop_ratio=ratio, interpolation=interpolation, antialias=antialias
    )
    resized = resize(np.full((height, width, 4 - channels), 90, np.uint8), geometry)
    assert resized.shape == geometry.image_shape and resized.flags["C_CONTIGUOUS"]
    assert rule == "pad" or set(np.unique(resized)) == {90}


def test_lanczos_without_antialias_is_rejected() -> None:
    with pytest.raises(ValidationError, match="interpolation=lanczos requires antialias=true"):
        Geometry(size=(8, 8), channels=1, interpolation="lanczos", antialias=False)


def test_auto_geometry_follows_the_images() -> None:
    auto = GeometryRequest()
    assert auto.resolve((32, 48), gray=False) == Geometry(size=(32, 48), channels=3)
    assert auto.resolve(None, gray=True) == Geometry(size=(64, 64), channels=1)


@pytest.mark.parametrize("size", [(4000, 3000), (4, 4)])
def test_native_size_out_of_range_is_not_used(size: tuple[int, int]) -> None:
    assert GeometryRequest().resolve(size, gray=False).size == (64, 64)


def test_requested_geometry_wins() -> None:
    request = GeometryRequest(image_size="24x40", channels=1, resize="pad")
    assert request.resolve((32, 32), gray=False) == Geometry(size=(24, 40), channels=1, resize="pad")


@pytest.mark.parametrize("value", ["7", 1025, "8x2000", "8x8x8", "big", "-9", ""])
def test_invalid_image_size_is_rejected(value: int | str) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_image_size(value)
