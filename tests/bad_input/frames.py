"""Raw microscope files with one fault each, and what ``segment`` and ``prepare`` make of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from faults import (
    DONE,
    FAILED,
    HEIGHT,
    WARNED,
    WIDTH,
    Case,
    Writer,
    changed,
    content,
    grey,
    retagged,
    sparse,
    tiff,
)
from PIL import Image
from sem_writer import fei, info_bar, jeol, tescan, write, zeiss

BAR = 12
COLOUR = np.dstack([grey(seed) for seed in (0, 1, 2)])
RAMP = np.repeat(np.arange(256, dtype=np.uint16)[None] * 257, 3, 0)
REDS = RAMP * np.array([[1], [0], [0]], np.uint16)


def first(name: str, writer: Writer) -> Callable[[Path], None]:
    """The SE2 image of a pair is written by ``writer``, the other is good."""
    return two(name, writer, tiff(grey(1)))


def two(name: str, one: Writer, other: Writer | None = None, suffix: str = ".tif") -> Callable[[Path], None]:
    """Both images of a pair; the same writer for both if there is no other."""

    def build(folder: Path) -> None:
        one(folder / f"{name}_001{suffix}")
        (other or one)(folder / f"{name}_002{suffix}")

    return build


def alone(name: str, writer: Writer) -> Callable[[Path], object]:
    """One file."""
    return lambda folder: writer(folder / name)


def named(*names: str) -> Callable[[Path], None]:
    """Good frames of these names, alternating."""

    def build(folder: Path) -> None:
        for index, name in enumerate(names):
            tiff(grey(index))(folder / name)

    return build


def pillow(image: np.ndarray | Image.Image, kind: str) -> Writer:
    """Writes a picture in a format of Pillow's, whatever the path is called."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return lambda path: picture.save(path, format=kind)


def _barred(*, top: int | None = None, paper: int = 243, ink: int = 20) -> np.ndarray:
    """A frame with an info bar that begins in row ``top``, at the lower edge if not given."""
    frame = np.vstack([grey(), grey(3)])[: HEIGHT + BAR]
    top = HEIGHT if top is None else top
    frame[top : top + BAR] = info_bar(BAR, WIDTH, paper, ink)
    return frame


def _pages(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        for seed in range(3):
            file.write(grey(seed), photometric="minisblack", metadata=None)


def _loop(path: Path) -> None:
    """The first directory of the file says that it is followed by itself."""
    write(path, grey())
    with tifffile.TiffFile(path) as file:
        start, number = file.pages.first.offset, len(file.pages.first.tags)
    data = bytearray(path.read_bytes())
    end = start + 2 + 12 * number
    data[end : end + 4] = start.to_bytes(4, "little")
    path.write_bytes(bytes(data))


def _many_tags(path: Path) -> None:
    """A tag that says it has four thousand million values."""
    write(path, grey())
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        place = file.pages.first.tags["StripByteCounts"].offset
    data[place + 4 : place + 8] = b"\xff" * 4
    path.write_bytes(bytes(data))


def _sidecar(name: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        two(name, tiff(tags=None))(folder)
        text = jeol(bar="0", marker="many um")
        (folder / f"{name}_001.txt").write_bytes(text.encode() + b"\xff\xfe\0")

    return build


def _folder(folder: Path) -> None:
    (folder / "folder_001.tif").mkdir()
    tiff()(folder / "folder_002.tif")


def _dangling(folder: Path) -> None:
    (folder / "dangling_001.tif").symlink_to("gone.tif")
    tiff()(folder / "dangling_002.tif")


RANDOM = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8).tobytes()
LONG = "l" * 242

PAIRS = [
    Case("pair", "alone", named("alone_001.tif"), FAILED, r"SE2|InLens partner alone_002.tif is missing"),
    Case(
        "pair", "second", named("second_002.tif"), FAILED, "partner second_001.tif is missing", "second_002"
    ),
    Case("pair", "zero", named("zero_000.tif"), FAILED, "numbered 0", "zero_000"),
    Case("pair", "size", first("size", tiff(grey(shape=(80, WIDTH)))), FAILED, "differ in size"),
    Case("pair", "depth", first("depth", tiff(grey(dtype=np.uint16))), FAILED, "differ in depth"),
    Case("pair", "pixels", first("pixels", tiff(tags=zeiss("9 nm"))), FAILED, "differ in pixel size"),
    Case(
        "pair",
        "swapped",
        two("swapped", tiff(tags=zeiss(detector="InLens")), tiff(tags=zeiss(detector="SE2"))),
        DONE,
    ),
    Case("pair", "both", two("both", tiff(tags=zeiss(detector="SE2"))), FAILED, "both name the SE2 detector"),
    Case(
        "pair",
        "twice",
        named("twice_1.tif", "twice_001.tif", "twice_002.tif"),
        FAILED,
        "share a number",
        "twice_001",
    ),
    Case(
        "pair",
        "suffixes",
        named("suffixes_001.tif", "suffixes_001.TIFF", "suffixes_002.tif"),
        FAILED,
        "share a number",
    ),
]

NAMES = [
    Case("name", "spaces", named("my frame 001.tif", "my frame 002.tif"), DONE, "", "my frame 001"),
    Case("name", "umlauts", named("Größe_001.tif", "Größe_002.tif"), DONE, "", "Größe_001"),
    Case("name", "quotes", named("a'b\"c_001.tif", "a'b\"c_002.tif"), DONE, "", "a'b\"c_001"),
    Case("name", "dash", named("--out_001.tif", "--out_002.tif"), DONE, "", "--out_001"),
    Case("name", "upper case", named("UPPER_001.TIF", "UPPER_002.TIF"), DONE, "", "UPPER_001"),
    Case("name", "comma", named("a,b;c_001.tif", "a,b;c_002.tif"), DONE, "", "a,b;c_001"),
    Case("name", "markup", named("<b>&_001.tif", "<b>&_002.tif"), DONE, "", "<b>&_001"),
    Case("name", "pattern", named("[a]*%s_001.tif", "[a]*%s_002.tif"), DONE, "", "[a]*%s_001"),
    Case("name", "line feed", named("x\ny_001.tif", "x\ny_002.tif"), FAILED, "character", "x\\ny_001"),
    Case(
        "name",
        "not UTF-8",
        named(os.fsdecode(b"caf\xe9_001.tif"), os.fsdecode(b"caf\xe9_002.tif")),
        FAILED,
        "character",
        "caf\\udce9_001",
    ),
    Case("name", "no number", named("overview.tif"), FAILED, "has no number at the end", "overview"),
    Case(
        "name",
        "250 characters",
        named(f"{LONG}_001.tif", f"{LONG}_002.tif"),
        FAILED,
        "name.*too long",
        f"{LONG}_001",
    ),
]

DAMAGED = [
    Case("damage", "empty", first("empty", content(b"")), FAILED, "is empty"),
    Case("damage", "cut", first("cut", changed(lambda data: data[:5000])), FAILED, "is truncated"),
    Case("damage", "header", first("header", changed(lambda data: data[:6])), FAILED, "cannot be read"),
    Case("damage", "random", first("random", content(RANDOM)), FAILED, "cannot be read"),
    Case("damage", "tail", first("tail", content(b"II*\0\x08\0\0\0" + RANDOM)), FAILED, "cannot be read"),
    Case("damage", "no-ifd", first("no-ifd", content(b"II*\0" + bytes(4))), FAILED, "cannot be read"),
    Case("damage", "text", first("text", content(b"<html>404</html>")), FAILED, "cannot be read"),
    Case("damage", "is-png", first("is-png", pillow(grey(), "png")), FAILED, "is a PNG file named TIFF"),
    Case("damage", "is-jpeg", first("is-jpeg", pillow(grey(), "jpeg")), FAILED, "is a JPEG file named TIFF"),
    Case("damage", "is-bmp", first("is-bmp", pillow(grey(), "bmp")), FAILED, "is a BMP file named TIFF"),
    Case(
        "damage", "bomb", first("bomb", content(sparse((60_000, 60_000)))), FAILED, "declares 60000 x 60000"
    ),
    Case("damage", "bomb2", first("bomb2", content(sparse((24_000, 24_000)))), FAILED, "24000 x 24000|trunc"),
    Case(
        "damage",
        "zip-bomb",
        first("zip-bomb", content(sparse((24_000, 24_000), compression=8, strips=24))),
        FAILED,
        "24000 x 24000",
    ),
    Case(
        "damage",
        "lzw-bomb",
        first("lzw-bomb", content(sparse((24_000, 24_000), compression=5, strips=24))),
        FAILED,
        "24000 x 24000",
    ),
    Case("damage", "offsets", first("offsets", retagged(StripOffsets=10**6)), FAILED, "is truncated"),
    Case("damage", "counts", first("counts", retagged(StripByteCounts=500)), FAILED, "truncated|strip"),
    Case(
        "damage",
        "strips",
        first("strips", retagged(tiff(rowsperstrip=8), StripByteCounts=[896] * 11 + [90])),
        FAILED,
        "truncated|strip",
    ),
    Case("damage", "no-width", first("no-width", retagged(ImageWidth=0)), FAILED, "no pixels|cannot be read"),
    Case("damage", "loop", first("loop", _loop), DONE),
    Case("damage", "values", first("values", _many_tags), DONE),
    Case("damage", "folder", _folder, FAILED, "partner folder_001.tif is missing", "folder_002"),
    Case("damage", "dangling", _dangling, FAILED, "no such file|dangling"),
]

FORMATS = [
    Case("format", "png", alone("png_001.png", pillow(grey(), "png")), FAILED, "is no TIFF file"),
    Case("format", "jpeg", alone("jpeg_001.jpg", pillow(grey(), "jpeg")), FAILED, "is no TIFF file"),
    Case("format", "bmp", alone("bmp_001.bmp", pillow(grey(), "bmp")), FAILED, "is no TIFF file"),
    Case("format", "colour", first("colour", tiff(COLOUR, photometric="rgb")), FAILED, "is a colour image"),
    Case(
        "format",
        "grey RGB",
        two("rgb", tiff(np.dstack([grey()] * 3), photometric="rgb")),
        DONE,
        "",
        "rgb_001",
    ),
    Case(
        "format",
        "grey RGBA",
        two("rgba", tiff(np.dstack([grey()] * 3 + [grey() | 255]), photometric="rgb", extrasamples=[2])),
        DONE,
        "",
        "rgba_001",
    ),
    Case("format", "palette", two("palette", tiff(photometric="palette", colormap=RAMP)), DONE),
    Case("format", "reds", first("reds", tiff(photometric="palette", colormap=REDS)), FAILED, "colour"),
    Case("format", "1-bit", first("1-bit", tiff(grey() > 100)), FAILED, "1-bit"),
    Case("format", "16-bit", two("16-bit", tiff(grey(dtype=np.uint16))), DONE),
    Case("format", "float", first("float", tiff(grey().astype(np.float32))), FAILED, "32-bit float"),
    Case("format", "nan", first("nan", tiff(np.full((9, 9), np.nan, np.float32))), FAILED, "32-bit float"),
    Case("format", "inf", first("inf", tiff(np.full((9, 9), np.inf, np.float32))), FAILED, "32-bit float"),
    Case("format", "signed", first("signed", tiff(grey().astype(np.int16))), FAILED, "int16"),
    Case("format", "complex", first("complex", tiff(grey().astype(np.complex64))), FAILED, "complex64"),
    Case("format", "pages", first("pages", _pages), WARNED, "has 3 pages; the first is used"),
    Case(
        "format", "volume", first("volume", tiff(np.stack([grey()] * 4), volumetric=True)), FAILED, "a stack"
    ),
    Case("format", "bigtiff", two("bigtiff", tiff(bigtiff=True)), DONE),
    Case("format", "big-endian", two("big-endian", tiff(byteorder=">")), DONE),
    Case("format", "tiled", two("tiled", tiff(tile=(16, 16))), DONE),
    Case("format", "deflate", two("deflate", tiff(compression="zlib")), DONE),
    Case("format", "inverted", two("inverted", tiff(photometric="miniswhite")), DONE),
]

SCENES = [
    Case("scene", "constant", two("constant", tiff(grey() * 0 + 90)), FAILED, "the same grey"),
    Case("scene", "black", two("black", tiff(grey() * 0)), FAILED, "the same grey"),
    Case("scene", "bar", two("bar", tiff(_barred())), DONE),
    Case("scene", "dark bar", two("dark", tiff(_barred(paper=0, ink=255))), DONE, "", "dark_001"),
    Case("scene", "bar on top", two("top", tiff(_barred(top=0))), DONE, "", "top_001"),
    Case("scene", "bar in the middle", two("middle", tiff(_barred(top=40))), DONE, "", "middle_001"),
    Case("scene", "one bar", first("lone", tiff(_barred()[-HEIGHT:])), WARNED, "only one", "lone_001"),
    Case("scene", "small", two("small", tiff(grey(shape=(16, 20)))), DONE),
    Case("scene", "row", two("row", tiff(grey()[:1])), DONE),
    Case("scene", "column", two("column", tiff(grey()[:, :1])), DONE),
    Case("scene", "pixel", two("pixel", tiff(grey()[:1, :1])), FAILED, "the same grey"),
]

METADATA = [
    Case("metadata", "none", two("none", tiff(tags=None)), WARNED, "pixel size unknown"),
    Case(
        "metadata",
        "zero",
        two("zeronm", tiff(tags=zeiss("0 nm"))),
        WARNED,
        "0 um is impossible",
        "zeronm_001",
    ),
    Case("metadata", "negative", two("minus", tiff(tags=zeiss("-7 nm"))), WARNED, "-0.007 um", "minus_001"),
    Case("metadata", "nan", two("nannm", tiff(tags=zeiss("nan nm"))), WARNED, "nan um", "nannm_001"),
    Case("metadata", "picometres", two("pm", tiff(tags=zeiss("6980 pm"))), DONE, "", "pm_001"),
    Case(
        "metadata", "broken", two("broken", tiff(tags={34118: b"\xff\xfe\0"})), WARNED, "pixel size unknown"
    ),
    Case(
        "metadata",
        "contradiction",
        two("contra", tiff(tags=zeiss("6.98 nm", width="3 um"))),
        WARNED,
        "AP_IMAGE_PIXEL_SIZE says",
        "contra_001",
    ),
    Case(
        "metadata",
        "fei",
        two("fei", tiff(tags=fei("nan")), tiff(tags=fei("0", "TLD"))),
        WARNED,
        "nan um is impossible",
    ),
    Case(
        "metadata",
        "tescan",
        two("tescan", tiff(tags=tescan("0")), tiff(tags=None)),
        WARNED,
        "0 um is impossible",
    ),
    Case("metadata", "jeol", _sidecar("jeol"), WARNED, "unreadable and ignored"),
]

CASES = [*PAIRS, *NAMES, *DAMAGED, *FORMATS, *SCENES, *METADATA]
