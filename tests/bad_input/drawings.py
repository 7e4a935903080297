"""Labels and masks with one fault each, and what ``prepare`` and ``measure`` make of them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile
from faults import (
    DONE,
    FAILED,
    HEIGHT,
    WIDTH,
    Array,
    Case,
    Writer,
    changed,
    content,
    grey,
    png_header,
    sparse,
)
from PIL import Image

from carde_monai.sem import pixel_affine

MASK = np.zeros((HEIGHT, WIDTH), np.uint8)
MASK[20:30, 40:52] = MASK[60:64, 10:30] = 255
NUMBERS = np.where(MASK, 1 + (np.arange(HEIGHT) > 40)[:, None], 0).astype(np.uint16)
COLOURED = np.dstack([grey(), np.where(MASK, 255, grey()), grey()]).astype(np.uint8)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 112 96\n%%EndComments\nshowpage\n"
RANDOM = np.random.default_rng(1).integers(0, 256, 5000, np.uint8).tobytes()
MEASURE = ("measure",)
BOTH = ("prepare", "measure")


def drawn(suffix: str, writer: Writer) -> Callable[[Path], None]:
    """Builds one label or mask; the path it is given lacks its extension."""
    return lambda path: writer(path.with_name(path.name + suffix))


def picture(pixels: Array, kind: str | None = None) -> Writer:
    """Writes a picture as Pillow does."""
    return lambda path: Image.fromarray(pixels).save(path, kind)


def floats(value: float) -> Writer:
    """Writes a mask of floats with one pixel of this value."""
    pixels = MASK.astype(np.float32)
    pixels[3, 3] = value
    return lambda path: tifffile.imwrite(path, pixels)


def beside(writer: Writer) -> Callable[[Path], None]:
    """A good mask with a faulty probability beside it."""

    def build(path: Path) -> None:
        picture(MASK)(path.with_name(f"{path.name}.png"))
        writer(path.with_name(path.name.removesuffix("_mask") + "_probability.tif"))

    return build


def _two(path: Path) -> None:
    for suffix in (".png", ".tif"):
        picture(MASK)(path.with_name(path.name + suffix))


def _palette(path: Path) -> None:
    image = Image.fromarray((MASK > 0).astype(np.uint8), "L")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(path)


def _pages(path: Path) -> None:
    tifffile.imwrite(path, np.stack([MASK, MASK, MASK]), photometric="minisblack")


def _transparent(path: Path) -> None:
    Image.fromarray(np.dstack([MASK, MASK, MASK, MASK])).save(path)


def _zeroed(data: bytes) -> bytes:
    return data[:300] + bytes(60) + data[360:]


def nifti(pixels: Array, shape: tuple[int, ...] | None = None, pack: bool = True) -> Writer:
    """Writes NIfTI, with another shape in its header if one is given."""

    def build(path: Path) -> None:
        image = nib.Nifti1Image(pixels, pixel_affine(None))
        if shape:
            image.header.set_data_shape(shape)
        data = image.header.binaryblock + bytes(4) + pixels.tobytes(order="F")
        path.write_bytes(gzip.compress(data) if pack else data)

    return build


PNG = ".png"
FLAT = np.full_like(MASK, 255)
THREE = np.where(MASK, np.where(np.arange(HEIGHT)[:, None] > 40, 90, 7), 0).astype(np.uint8)
SOFT = np.asarray(Image.fromarray(grey()).resize((WIDTH, HEIGHT)))
VOLUME = np.repeat(MASK[..., None], 3, -1)

# what prepare and measure read alike
LABELS = [
    Case("label", "size", drawn(PNG, picture(MASK[:80])), FAILED, "112 x 80 px but"),
    Case("label", "blank", drawn(PNG, picture(MASK * 0)), DONE),
    Case("label", "full", drawn(PNG, picture(FLAT)), FAILED, "is 255 throughout"),
    Case("label", "values", drawn(PNG, picture(THREE)), FAILED, "holds .*values"),
    Case("label", "greys", drawn(PNG, picture(SOFT)), FAILED, "holds .*values"),
    Case("label", "inverse", drawn(PNG, picture(MASK // 255 + 1)), FAILED, "1 and 2 but no 0"),
    Case("label", "colour", drawn(PNG, picture(COLOURED)), FAILED, "is coloured"),
    Case("label", "transparent", drawn(PNG, _transparent), FAILED, "partly transparent"),
    Case("label", "one-bit", drawn(PNG, picture(MASK > 0)), DONE),
    Case("label", "palette", drawn(PNG, _palette), DONE),
    Case("label", "deep", drawn(".tif", picture(MASK.astype(np.uint16) * 257)), DONE),
    Case(
        "label",
        "numbers",
        drawn(".tif", picture(NUMBERS)),
        FAILED,
        "holds the values 0, 1, 2",
        outcomes=(("measure", DONE),),
    ),
    Case("label", "nan", drawn(".tif", floats(np.nan)), FAILED, "no numbers"),
    Case("label", "infinite", drawn(".tif", floats(np.inf)), FAILED, "no numbers"),
    Case("label", "minus", drawn(".tif", floats(-1)), FAILED, "values|fractions"),
    Case("label", "stack", drawn(".tif", _pages), FAILED, "is a stack of 3"),
    Case("label", "jpeg", drawn(".bmp", picture(MASK, "jpeg")), FAILED, "holds .*values"),
    Case(
        "label", "cut", drawn(PNG, changed(lambda data: data[:90], picture(grey()))), FAILED, "cannot be read"
    ),
    Case("label", "nothing", drawn(PNG, content(b"")), FAILED, "cannot be read"),
    Case("label", "random", drawn(PNG, content(RANDOM)), FAILED, "cannot be read"),
    Case("label", "postscript", drawn(PNG, content(EPS)), FAILED, "cannot be read"),
    Case("label", "bomb", drawn(PNG, content(png_header(60_000, 60_000))), FAILED, "declares 60000 x 60000"),
    Case("label", "bomb2", drawn(PNG, content(png_header(24_000, 24_000))), FAILED, "can hold"),
    Case(
        "label",
        "bomb3",
        drawn(".tif", content(sparse((24_000, 24_000), compression=5))),
        FAILED,
        "can hold",
    ),
    Case("label", "double", _two, FAILED, "of the same"),
]
MASKS = [
    *LABELS,
    Case("mask", "no-nifti", drawn(".nii.gz", content(RANDOM)), FAILED, "cannot be read"),
    Case(
        "mask",
        "cut-nifti",
        drawn(".nii.gz", changed(lambda data: data[:5000], nifti(grey()))),
        FAILED,
        "read",
    ),
    Case("mask", "flipped", drawn(".nii.gz", changed(_zeroed, nifti(grey()))), FAILED, "cannot be read"),
    Case("mask", "nifti-bomb", drawn(".nii.gz", nifti(MASK, (32_000, 32_000))), FAILED, "declares|can hold"),
    Case("mask", "short", drawn(".nii", nifti(MASK, (HEIGHT, 2 * WIDTH), pack=False)), FAILED, "read|hold"),
    Case("mask", "volume", drawn(".nii.gz", nifti(VOLUME)), FAILED, "has the shape"),
    Case("mask", "other", beside(picture(MASK[:80])), FAILED, "112 x 80 px but the mask has"),
    Case("mask", "broken", beside(content(RANDOM)), FAILED, "cannot be read"),
    Case("mask", "large", beside(content(sparse((24_000, 24_000)))), FAILED, "read|hold|truncated"),
]
