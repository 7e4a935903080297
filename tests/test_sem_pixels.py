"""Everything that calls itself an image: read as grey, or refused in one line that names file and remedy."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image
from sem_writer import noise, write

from carde_monai import sem_pixels
from carde_monai.errors import InputError
from carde_monai.sem_pixels import read_file

Array = npt.NDArray[Any]
GREY, GREY16 = noise(), noise(dtype=np.uint16)
RGB = np.repeat(GREY[..., None], 3, axis=-1)
OPAQUE = np.full_like(GREY, 255)
COLOUR = RGB.copy()
COLOUR[20:30, 40:60] = (255, 0, 0)
RAMP = np.repeat(np.arange(256, dtype=np.uint16)[None] * 257, 3, axis=0)


def _tiff(pixels: Array, **options: Any) -> Callable[[Path], Any]:
    return lambda path: write(path, pixels, **options)


def _pillow(pixels: Array | Image.Image, **options: Any) -> Callable[[Path], Any]:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    return lambda path: image.save(path, **options)


def _palette(shift: int = 0) -> Image.Image:
    image = Image.fromarray(GREY).convert("P")
    image.putpalette(
        [min(255, value + shift * (channel == 0)) for value in range(256) for channel in range(3)]
    )
    image.frombytes(GREY.tobytes())
    return image


@pytest.mark.parametrize(
    ("name", "writer", "expected"),
    [
        ("grey.tif", _tiff(GREY), GREY),
        ("GREY.TIF", _tiff(GREY), GREY),
        ("grey.tiff", _tiff(GREY), GREY),
        ("grey16.tif", _tiff(GREY16), GREY16),
        ("big-endian.tif", _tiff(GREY16, byteorder=">"), GREY16),
        ("bigtiff.tif", _tiff(GREY, bigtiff=True), GREY),
        ("deflate.tif", _tiff(GREY, compression="zlib"), GREY),
        ("predictor.tif", _tiff(GREY16, compression="zlib", predictor=2), GREY16),
        ("strips.tif", _tiff(GREY, rowsperstrip=7), GREY),
        ("tiles.tif", _tiff(GREY, tile=(32, 32)), GREY),
        ("lzw.tif", _pillow(GREY, compression="tiff_lzw"), GREY),
        ("lzw16.tif", _pillow(GREY16, compression="tiff_lzw"), GREY16),
        ("lzw-rgb.tif", _pillow(RGB, compression="tiff_lzw"), GREY),
        ("packbits.tif", _pillow(GREY, compression="packbits"), GREY),
        ("rgb.tif", _tiff(RGB, photometric="rgb"), GREY),
        ("rgb16.tif", _tiff(np.repeat(GREY16[..., None], 3, -1), photometric="rgb"), GREY16),
        ("planes.tif", _tiff(np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"), GREY),
        ("rgba.tif", _tiff(np.dstack([RGB, OPAQUE]), photometric="rgb", extrasamples=[2]), GREY),
        ("alpha.tif", _tiff(np.dstack([GREY, OPAQUE]), extrasamples=[2], planarconfig="contig"), GREY),
        ("white0.tif", _tiff(GREY, photometric="miniswhite"), 255 - GREY),
        ("white0-lzw.tif", _tiff(GREY16, photometric="miniswhite"), 65535 - GREY16),
        ("palette.tif", _tiff(GREY, photometric="palette", colormap=RAMP), GREY),
        ("inverse.tif", _tiff(GREY, photometric="palette", colormap=RAMP[:, ::-1]), 255 - GREY),
        ("near.tif", _tiff(RGB + np.array([0, 0, 1], np.uint8), photometric="rgb"), GREY),  # JPEG once
        ("one-row.tif", _tiff(GREY[:1]), GREY[:1]),
        ("grey.png", _pillow(GREY), GREY),
        ("GREY.PNG", _pillow(GREY), GREY),
        ("grey16.png", _pillow(GREY16), GREY16),
        ("rgb.png", _pillow(RGB), GREY),
        ("rgba.png", _pillow(np.dstack([RGB, OPAQUE])), GREY),
        (
            "alpha.png",
            _pillow(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(OPAQUE)])),
            GREY,
        ),
        ("palette.png", _pillow(_palette()), GREY),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_grey_in_any_dress(name: str, writer: Callable[[Path], Any], expected: Array, tmp_path: Path) -> None:
    writer(tmp_path / name)
    pixels, metadata = read_file(tmp_path / name)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == expected.dtype and pixels.dtype.isnative
    assert pixels.flags.c_contiguous
    assert (metadata.pixel_size_um, metadata.warnings) == (None, ())


def _cut(share: float, pixels: Array = GREY, **options: Any) -> Callable[[Path], Any]:
    def writer(path: Path) -> None:
        if path.suffix == ".png":
            Image.fromarray(pixels).save(path)
        else:
            write(path, pixels, **options)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return writer


def _declares(height: int, width: int) -> Callable[[Path], Any]:
    """A TIFF of one strip that says that it is huge."""

    def writer(path: Path) -> None:
        write(path, GREY)
        with tifffile.TiffFile(path, mode="r+b") as file:
            tags = file.pages.first.tags
            tags["ImageLength"].overwrite(height)
            tags["ImageWidth"].overwrite(width)

    return writer


def _png_header(width: int, height: int) -> Callable[[Path], Any]:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    return lambda path: path.write_bytes(content + chunk(b"IEND", b""))


def _flipped(path: Path) -> None:
    """Compressed data with one wrong byte."""
    write(path, GREY, compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.dataoffsets[0] + 40
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = bytes(40)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "writer", "says"),
    [
        ("none.tif", lambda path: None, "no such file"),
        ("folder.tif", lambda path: path.mkdir(), "is a folder"),
        ("broken-link.tif", lambda path: path.symlink_to(path.parent / "gone.tif"), "no such file"),
        ("image.jpg", lambda path: path.write_bytes(b"x"), "no TIFF or PNG"),
        ("noextension", lambda path: path.write_bytes(b"x"), "no TIFF or PNG"),
        ("empty.tif", lambda path: path.touch(), "is empty"),
        ("empty.png", lambda path: path.touch(), "is empty"),
        ("text.tif", lambda path: path.write_text("no image\n" * 99), "cannot be read"),
        ("text.png", lambda path: path.write_text("no image\n" * 99), "cannot be read"),
        ("png.tif", lambda path: Image.fromarray(GREY).save(path, format="png"), "is a PNG file named"),
        ("header.tif", lambda path: path.write_bytes(b"II*\0\x08\0\0\0"), "cannot be read"),
        ("magic.tif", lambda path: path.write_bytes(b"II*\0"), "cannot be read"),
        ("zeros.tif", lambda path: path.write_bytes(bytes(5000)), "cannot be read"),
        ("cut.tif", _cut(0.5), "is truncated"),
        ("cut-99.tif", _cut(0.99), "is truncated"),
        ("cut-strips.tif", _cut(0.6, rowsperstrip=8), "is truncated"),
        ("cut-deflate.tif", _cut(0.6, compression="zlib"), "is truncated"),
        ("cut-16.tif", _cut(0.7, GREY16), "is truncated"),
        ("cut.png", _cut(0.6), "cannot be read"),
        ("cut-header.png", _cut(0.002), "cannot be read"),
        ("flipped.tif", _flipped, "cannot be read"),
        ("float32.tif", _tiff(GREY.astype(np.float32)), "32-bit float32"),
        ("float64.tif", _tiff(GREY.astype(np.float64)), "float64"),
        ("float16.tif", _tiff(GREY.astype(np.float16)), "float16"),
        ("nan.tif", _tiff(np.full((9, 9), np.nan, np.float32)), "float32"),
        ("int8.tif", _tiff(GREY.astype(np.int8)), "int8"),
        ("int16.tif", _tiff(GREY.astype(np.int16)), "int16"),
        ("uint32.tif", _tiff(GREY.astype(np.uint32)), "uint32"),
        ("complex.tif", _tiff(GREY.astype(np.complex64)), "complex64"),
        ("bool.tif", _tiff(GREY > 100), "1-bit"),
        ("bilevel.tif", _pillow(Image.fromarray(GREY > 100)), "1-bit"),
        ("bilevel.png", _pillow(Image.fromarray(GREY > 100)), "1-bit"),
        ("colour.tif", _tiff(COLOUR, photometric="rgb"), "is a colour image"),
        ("colour-lzw.tif", _pillow(COLOUR, compression="tiff_lzw"), "is a colour image"),
        ("colour-jpeg.tif", _pillow(COLOUR, compression="jpeg"), "is a colour image"),
        (
            "colour-alpha.tif",
            _tiff(np.dstack([COLOUR, OPAQUE]), photometric="rgb", extrasamples=[2]),
            "colour",
        ),
        (
            "palette.tif",
            _tiff(GREY, photometric="palette", colormap=RAMP * np.array([[1], [0], [0]], np.uint16)),
            "colour",
        ),
        ("two.tif", _tiff(np.dstack([GREY, 255 - GREY]), planarconfig="contig"), "colour"),
        ("colour.png", _pillow(COLOUR), "is a colour image"),
        ("palette.png", _pillow(_palette(60)), "is a colour image"),
        ("cmyk.tif", _pillow(Image.fromarray(COLOUR).convert("CMYK")), "colour"),
        ("channels.tif", _tiff(np.repeat(GREY[..., None], 7, -1), planarconfig="contig"), "7 channels"),
        ("volume.tif", _tiff(np.repeat(GREY[None], 4, 0), volumetric=True), "a stack of 4 images"),
        ("bomb.tif", _declares(100_000, 100_000), "declares 100000 x 100000 px"),
        ("bomb-row.tif", _declares(1, 2**31), "declares"),
        ("wide.tif", _declares(96, 4096), "truncated|cannot be read"),
        ("no-rows.tif", _declares(0, 128), "no pixels|cannot be read"),
        ("bomb.png", _png_header(100_000, 100_000), "declares|cannot be read"),
        ("big.png", _png_header(10_000, 10_000), "more than its 69 bytes can hold"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_bad_files_are_one_line(
    name: str, writer: Callable[[Path], Any], says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer(tmp_path / name)
    with caplog.at_level(logging.DEBUG), pytest.raises(InputError, match=says) as error:
        read_file(tmp_path / name)
    line = str(error.value)
    assert "\n" not in line and len(line) < 400 + len(str(tmp_path))
    assert name in line and ";" in line  # the file, and after the semicolon what to do
    assert [record for record in caplog.records if record.name == "tifffile"] == []


def test_the_first_of_several_pages_counts(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path) as file:
        for page in (GREY, 255 - GREY, GREY[:5]):
            file.write(page, photometric="minisblack", metadata=None)
    pixels, metadata = read_file(path)
    np.testing.assert_array_equal(pixels, GREY)
    assert metadata.warnings == ("pages.tif: has 3 pages; the first is used",)


def test_the_size_limit_counts_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tif", GREY)
    monkeypatch.setattr(sem_pixels, "MAX_PIXELS", GREY.size)
    read_file(path)
    monkeypatch.setattr(sem_pixels, "MAX_PIXELS", GREY.size - 1)
    with pytest.raises(InputError, match="declares 128 x 96 px"):
        read_file(path)
