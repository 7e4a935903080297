"""Pixels of a microscope file as one grey image, or one line that says why not."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from carde_monai.errors import InputError
from carde_monai.sem_metadata import FileMetadata, read_metadata

Array = npt.NDArray[Any]

TIFF, PNG = (".tif", ".tiff"), (".png",)
MAX_PIXELS = 25_000**2  # beyond any microscope's frame; a small file can declare more than memory holds
# LZW packs 2,600 bytes of one value into one, deflate 1,032; small frames may have any ratio
MOST_PACKED, ANY_RATIO = 3000, 1 << 26
FORMATS = ("TIFF", "PNG", "BMP", "JPEG")  # Pillow knows many more, of which some start other programs
MAGIC = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"GIF8": "GIF", b"%PDF": "PDF"}
_opening = threading.Lock()
GREY_TOLERANCE = 3  # grey levels of 255: what JPEG makes of equal channels
MINISWHITE, RGB, PALETTE = 0, 2, 3
SAVE_GREY = "save it as an 8- or 16-bit grey TIFF"


def read_file(path: Path) -> tuple[Array, FileMetadata]:
    """Read a TIFF or PNG as an (H, W) array of uint8 or uint16 with what the file says about it.

    Grey saved as RGB, RGBA or palette becomes grey again; of several pages the first counts, with a warning.
    Raises InputError for a file that is missing, empty, truncated, no image, in colour, of another type of
    number, or declares more than ``MAX_PIXELS`` pixels.
    """
    if not path.is_file():
        wrong = "is a folder" if path.is_dir() else "no such file"
        raise InputError(path, wrong, "give the image file's path")
    if path.suffix.lower() not in TIFF + PNG:
        raise InputError(path, "is no TIFF or PNG file", "export the micrograph as TIFF")
    try:
        if path.stat().st_size == 0:
            raise InputError(path, "is empty", "copy it from the microscope again")
        with _quiet():
            return _read_tiff(path) if path.suffix.lower() in TIFF else _read_png(path)
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever a broken file makes them stumble over
        if path.suffix.lower() in TIFF and (kind := _format(path)):
            raise InputError(path, f"is a {kind} file named TIFF", "export the micrograph as TIFF") from error
        reason = str(error).partition("\n")[0].replace(str(path), path.name)[:200]
        reason = reason if " " in reason else "it is damaged"  # KeyError and the like say only a key
        raise InputError(path, f"cannot be read ({reason})", "copy or export it again") from error


def read_file_metadata(path: Path) -> FileMetadata:
    """What a file says about itself, without decoding its pixels; nothing where it is broken or no TIFF."""
    try:
        if path.suffix.lower() not in TIFF:
            return read_metadata(path, None, (1, 1))
        with _quiet(), tifffile.TiffFile(path) as file:
            page = file.pages.first
            return read_metadata(path, page, (page.imagelength, page.imagewidth))
    except Exception:  # what is wrong with the file is said when its pixels are read
        return FileMetadata()


def open_picture(path: Path) -> Image.Image:
    """Open a picture with Pillow, without decoding its pixels, within this module's limits of size.

    Pillow's own would refuse the mosaics of a microscope. Raises InputError for a picture that is too large,
    OSError for what is no picture.
    """
    with _opening:  # for the limit is a global of Pillow's
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = usual
    try:
        check_size(path, (image.height, image.width), 1 / 8 if image.mode == "1" else len(image.getbands()))
    except InputError:
        image.close()
        raise
    return image


def _format(path: Path) -> str:
    """What a file is by its first bytes, where that is no TIFF; else empty."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(4)
        return next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), "")
    return ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep tifffile from logging what is about to be said in one line."""
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True  # another level would empty the caches of all loggers
    try:
        yield
    finally:
        logger.disabled = before


def _read_tiff(path: Path) -> tuple[Array, FileMetadata]:
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        shape = (page.imagelength, page.imagewidth)
        check_size(path, shape, page.samplesperpixel * page.bitspersample / 8)
        metadata = read_metadata(path, page, shape)
        _check_page(path, page)
        grey = _grey(path, _decode(path, page), page)
        if len(file.pages) > 1:
            text = f"{path.name}: has {len(file.pages)} pages; the first is used"
            metadata = replace(metadata, warnings=(*metadata.warnings, text))
    return grey, metadata


def check_size(path: Path, shape: tuple[int, int], pixel_bytes: float = 1) -> None:
    """Raise InputError if a picture declares no pixels, more than are read, or than its file can hold."""
    if min(shape) < 1:
        raise InputError(path, "holds no pixels", "copy or export it again")
    declared = f"declares {shape[1]} x {shape[0]} px"
    if shape[0] * shape[1] > MAX_PIXELS:
        wrong = f"{declared}, more than {MAX_PIXELS // 10**6} million"
        raise InputError(path, wrong, "cut it into parts")
    size = path.stat().st_size
    if shape[0] * shape[1] * pixel_bytes > ANY_RATIO + MOST_PACKED * size:
        wrong = f"{declared}, more than its {size} bytes can hold"
        raise InputError(path, wrong, "copy it from the microscope again")


def _check_page(path: Path, page: tifffile.TiffPage) -> None:
    size = path.stat().st_size
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    needed = page.nbytes if page.compression == tifffile.COMPRESSION.NONE and page.bitspersample > 1 else 0
    whole = sum(page.databytecounts) >= needed
    if not ends or max(ends) > size or min(page.databytecounts) == 0 or not whole:
        raise InputError(path, "is truncated", "copy it from the microscope again")
    if page.imagedepth > 1:
        raise InputError(path, f"is a stack of {page.imagedepth} images", "save one image a file")
    if page.samplesperpixel > 4:
        raise InputError(path, f"has {page.samplesperpixel} channels a pixel", SAVE_GREY)
    kind = page.dtype
    if kind is None or page.bitspersample not in (8, 16) or kind.kind != "u":
        held = "1-bit black and white" if page.bitspersample == 1 else f"{page.bitspersample}-bit {kind}"
        raise InputError(path, f"is {held}, not 8- or 16-bit grey", SAVE_GREY)


def _decode(path: Path, page: tifffile.TiffPage) -> Array:
    """Pixels as (H, W) or (H, W, S), by Pillow where tifffile needs imagecodecs (LZW, JPEG)."""
    try:
        pixels = page.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        with open_picture(path) as image:
            pixels = np.asarray(image if image.mode != "YCbCr" else image.convert("RGB"))
            inverted = image.mode == "L" and int(page.photometric) == MINISWHITE  # Pillow makes 0 black
        return 255 - pixels if inverted else pixels
    if page.axes == "SYX":
        return np.moveaxis(pixels, 0, -1)
    if page.axes not in ("YX", "YXS"):
        raise InputError(path, f"is a stack of axes {page.axes}", "save one image a file")
    return pixels


def _grey(path: Path, pixels: Array, page: tifffile.TiffPage) -> Array:
    photometric = int(page.photometric)
    if photometric == PALETTE and pixels.ndim == 2 and page.colormap is not None:
        if pixels.dtype == np.uint8:
            pixels = (np.moveaxis(page.colormap, 0, -1)[pixels] >> 8).astype(np.uint8)
        else:
            pixels = np.moveaxis(page.colormap, 0, -1)[pixels]
    alpha = bool(page.extrasamples) and int(page.extrasamples[-1]) != 0
    grey = one_channel(path, pixels, alpha)
    return np.iinfo(grey.dtype).max - grey if photometric == MINISWHITE else grey


def one_channel(path: Path, pixels: Array, alpha: bool = False) -> Array:
    """Grey (H, W) of an (H, W) or (H, W, S) array of which the last channel may be opacity.

    Raises InputError when the channels differ: colour, or an image that was drawn on.
    """
    if pixels.ndim == 2:
        return np.ascontiguousarray(pixels)
    colours = pixels[..., :3] if pixels.shape[-1] > 3 else pixels[..., : pixels.shape[-1] - alpha]
    first = colours[..., 0].astype(np.int32)
    limit = GREY_TOLERANCE * (np.iinfo(pixels.dtype).max // 255)
    if any(np.abs(colours[..., i] - first).max() > limit for i in range(1, colours.shape[-1])):
        raise InputError(path, "is a colour image", "give the microscope's own grey image")
    return np.ascontiguousarray(colours[..., min(1, colours.shape[-1] - 1)])


def _read_png(path: Path) -> tuple[Array, FileMetadata]:
    with open_picture(path) as image:
        mode = image.mode
        if mode == "1":
            raise InputError(path, "is 1-bit black and white, not 8- or 16-bit grey", SAVE_GREY)
        pixels = np.asarray(image.convert("RGB") if mode == "P" else image)
    if mode == "I":  # 16-bit grey before Pillow 10.3
        pixels = pixels.astype(np.uint16)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(path, f"holds {pixels.dtype} numbers, not 8- or 16-bit grey", SAVE_GREY)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return one_channel(path, pixels, mode in ("LA", "RGBA")), read_metadata(path, None, pixels.shape[:2])
