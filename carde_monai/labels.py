"""Labels drawn by people: finding the file that belongs to a micrograph, and reading it as a mask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from carde_monai.errors import InputError
from carde_monai.sem_pixels import open_picture

Array = npt.NDArray[Any]
Colour = tuple[int, int, int]
Pictures = dict[str, list[Path]]  # by stem

SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
RAW_FOLDER = "original sem images"
RAW_LABEL = "05a_particle_image_filtered.bmp"
RAW_COLOUR: Colour = (128, 255, 255)
MANY = 16  # more values than that are shades, not classes
# numbered particles have their number at most of their pixels' neighbours, greys do not
MANY_PIXELS, SCATTERED = 1000, 0.2
TOLERANCE = 8  # grey values a channel; drawing programs and colour profiles round


@dataclass(frozen=True)
class LabelRule:
    """What in a label file is particle: class values, a colour, or (neither given) all that is not 0.

    With several ``classes`` the values 1 to that number are kept apart, and 0 is the matrix.
    """

    values: tuple[int, ...] | None = None
    colour: Colour | None = None
    classes: int = 1

    @classmethod
    def parse(cls, value: object = None, colour: object = None, classes: object = 1) -> LabelRule:
        """Make a rule from what stands on the command line: ``1``, ``"1,3"``, ``(1, 3)``, ``"9,9,9"``."""
        if type(classes) is not int or not 1 <= classes < MANY:
            raise InputError(f"--classes {classes}", "is no number of classes", f"give 1 to {MANY - 1}")
        if classes > 1:
            if value is not None or colour is not None:
                wrong = "given together with a value or colour"
                raise InputError("--classes", wrong, "leave out one of them")
            return cls(classes=classes)
        values = _integers(value, "--label_value", "1")
        channels = _integers(colour, "--label_color", "128,255,255")
        if values and channels:
            raise InputError("--label_value", "given together with --label_color", "leave out one of them")
        if not channels:
            return cls(values)
        if len(channels) != 3 or max(channels) > 255:
            raise InputError("--label_color", f"'{colour}' is no colour", "write --label_color 128,255,255")
        return cls(None, (channels[0], channels[1], channels[2]))


def find_label(
    name: str, paths: Sequence[Path], folders: Sequence[Path], listed: dict[Path, Pictures] | None = None
) -> Path | None:
    """Find the label of the micrograph ``name`` made of the image files ``paths``, the first in ``folders``.

    A label is called ``<stem>_label.*``, in folders other than the images' own also ``<stem>.*``; the stem is
    the name or that of any of the files. Where each file of the micrograph has one, the first file's counts.
    ``listed`` keeps what the folders hold for the next call: there may be thousands of micrographs.
    Raises InputError when two files in one folder fit otherwise.
    """
    stems = {name, *(path.stem for path in paths)}
    marked = {f"{stem}_label" for stem in stems}
    listed = {} if listed is None else listed
    for folder in folders:
        if folder not in listed:
            listed[folder] = _pictures(folder)
        wanted = marked if folder == paths[0].parent else marked | stems
        fits = sorted(path for stem in wanted for path in listed[folder].get(stem, ()))
        own = [path for path in fits if path.stem == f"{paths[0].stem}_label"]
        if len(own) == 1 and {path.stem for path in fits} <= {f"{path.stem}_label" for path in paths}:
            return own[0]
        if len(fits) > 1:
            raise InputError(fits[0], f"{fits[1].name} is a label of the same micrograph", "keep one of them")
        if fits:
            return fits[0]
    return None


def find_raw_label(image: Path, alone: bool) -> Path | None:
    """Find the label of a raw folder: ``05a_Particle_Image_Filtered.bmp``, anywhere beside the images.

    ``image`` lies in a folder ``Original SEM Images``; ``alone`` says that it is the only micrograph there.
    Raises InputError when it cannot be known which label belongs to which micrograph.
    """
    if image.parent.name.lower() != RAW_FOLDER:
        return None
    fits = sorted(path for path in image.parents[1].rglob("*") if path.name.lower() == RAW_LABEL)
    if len(fits) > 1:
        raise InputError(fits[0], f"{fits[1]} is a label of the same micrograph", "keep one of them")
    if fits and not alone:
        raise InputError(
            fits[0], f"{image.parent} holds several micrographs", "give each pair its own folder"
        )
    return fits[0] if fits else None


def read_label(
    path: Path, shape: tuple[int, int], info_bar_rows: int, rule: LabelRule, image: Path
) -> npt.NDArray[np.uint8]:
    """Read a label as a mask of 0 and 1 with the (H, W) ``shape`` of its micrograph, the file ``image``.

    With several classes its values are their numbers. A label of the full frame, ``info_bar_rows`` higher
    than the micrograph, is cut like the micrograph. Raises InputError when the label cannot be read, has
    another size, leaves open what is particle, or has other values than the classes.
    """
    pixels = cut_to(read_picture(path, rule), shape, info_bar_rows, path, image)
    if rule.classes > 1:
        return _to_classes(pixels, rule.classes, path)
    return _to_mask(pixels, rule, path).astype(np.uint8)


def _to_classes(pixels: Array, classes: int, path: Path) -> npt.NDArray[np.uint8]:
    _check_finite(pixels, path)
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise InputError(path, "is coloured", "save the numbers of the classes as an 8-bit grey image")
        pixels = pixels[..., 0]
    strange = np.setdiff1d(pixels, np.arange(classes + 1))
    if strange.size:
        found = f"holds the value {strange[0]:g}, but of {classes} classes"
        raise InputError(path, found, f"number them 1 to {classes}, and the matrix 0")
    return pixels.astype(np.uint8)


def cut_to(pixels: Array, shape: tuple[int, int], info_bar_rows: int, path: Path, image: Path) -> Array:
    """The pixels (H, W) or (H, W, 3) of ``path`` without the info bar of its micrograph, the file ``image``.

    Raises InputError unless they have the ``shape`` of the micrograph, with or without its info bar. Cut
    before looking at values: text and marks in the info bar are no label.
    """
    height, width = shape
    if pixels.shape[:2] not in (shape, (height + info_bar_rows, width)):
        size = f"{pixels.shape[1]} x {pixels.shape[0]} px but {image} has {width} x {height}"
        bar = f" ({height + info_bar_rows} with the information bar)" if info_bar_rows else ""
        raise InputError(path, size + bar, "draw the label on the same frame, not scaled, not cropped")
    return pixels[:height]


def to_particles(pixels: Array, rule: LabelRule, path: Path, numbered: bool = False) -> Array:
    """An (H, W) mask (bool) of particles, or their numbers (int64), 0 where there is none.

    Two values are a mask. More are numbers with ``numbered`` and where they have more than 8 bits, unless
    ``rule`` says what is particle. Raises InputError for numbers that are not whole or scattered like a
    micrograph's greys, and where it is open what is particle.
    """
    _check_finite(pixels, path)
    values = np.unique(pixels) if rule == LabelRule() and pixels.ndim == 2 else ()
    if len(values) <= 2:
        return _to_mask(pixels, rule, path)
    if not numbered and pixels.dtype.itemsize == 1:
        remedy = "--label_value for that of the carbides, --instances if each value is one carbide"
        raise InputError(path, f"holds {len(values)} values, not two", f"{remedy}, or draw without smoothing")
    numbers = pixels.astype(np.int64)
    if numbers.min() < 0 or (numbers != pixels).any():
        raise InputError(path, "numbers particles with fractions or below 0", "give a mask or whole numbers")
    inside = numbers[:, 1:] > 0
    alike = (numbers[:, 1:] == numbers[:, :-1]) & inside
    if inside.sum() > MANY_PIXELS and alike.sum() < SCATTERED * inside.sum():
        wrong = f"holds {len(values)} grey values, scattered like a micrograph's"
        raise InputError(path, wrong, "give masks, or images in which each carbide has one number")
    return numbers


def _integers(value: object, option: str, example: str) -> tuple[int, ...] | None:
    if value is None:
        return None
    parts: Sequence[Any] = value if isinstance(value, list | tuple) else str(value).split(",")
    try:
        numbers = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or min(numbers) < 0:
        raise InputError(option, f"'{value}' is no list of whole numbers", f"write {option} {example}")
    return numbers


def _pictures(folder: Path) -> Pictures:
    """The pictures of a folder by their stems."""
    found: Pictures = defaultdict(list)
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix.lower() in SUFFIXES:
            found[path.stem].append(path)
    return found


def read_picture(path: Path, rule: LabelRule) -> Array:
    """Read a label as (H, W) or (H, W, 3); a palette gives indices, or its colours if ``rule`` is of colour.

    Raises InputError when it cannot be read as a picture, or is partly transparent.
    """
    try:
        with open_picture(path) as picture:
            picture.load()
            if getattr(picture, "n_frames", 1) > 1:
                raise InputError(path, f"is a stack of {picture.n_frames} images", "save one image a file")
            if _is_inverted(picture):  # ImageJ's particles are 255 however it shows them; Pillow turns them
                return 255 - np.asarray(picture)
            if picture.mode == "P" and rule.colour is None:
                return np.asarray(picture)
            if picture.mode == "1":
                return np.asarray(picture.convert("L"))
            if picture.mode in ("L", "F") or picture.mode.startswith("I"):
                return np.asarray(picture)
            colours = np.asarray(picture.convert("RGBA"))
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever a broken file makes them stumble over
        raise InputError(
            path, f"cannot be read as a picture ({error})", "save the label again as PNG"
        ) from error
    if (colours[..., 3] < 255).any():
        raise InputError(path, "is partly transparent", "flatten it: one opaque layer")
    return colours[..., :3]


def _is_inverted(picture: Image.Image) -> bool:
    """Whether an 8-bit TIFF is ImageJ's mask with its inverting look-up table (0 is shown white)."""
    tags = getattr(picture, "tag_v2", {})
    written_by = str(tags.get(ExifTags.Base.ImageDescription, ""))
    white_is_zero = tags.get(ExifTags.Base.PhotometricInterpretation) == 0
    return picture.mode == "L" and white_is_zero and written_by.startswith("ImageJ=")


def _check_finite(pixels: Array, path: Path) -> None:
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError(path, "holds values that are no numbers (NaN, inf)", "save it as an 8-bit image")


def _to_mask(pixels: Array, rule: LabelRule, path: Path) -> npt.NDArray[np.bool_]:
    _check_finite(pixels, path)
    if rule.colour is not None:
        colours = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        mask = np.abs(colours.astype(np.int32) - rule.colour).max(axis=2) <= TOLERANCE
        if not mask.any():
            wrong = f"nothing is drawn in {','.join(map(str, rule.colour))}"
            raise InputError(path, wrong, f"--label_color with its own colour ({_colours(colours)})")
        return mask
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise InputError(
                path, "is coloured", f"say what is particle: --label_color R,G,B ({_colours(pixels)})"
            )
        pixels = pixels[..., 0]
    if rule.values is not None:
        return np.isin(pixels, rule.values)
    values = np.unique(pixels)
    if len(values) == 1 and values[0] != 0:
        raise InputError(
            path, f"is {values[0]:g} throughout", "mark particles other than 0, or leave the label out"
        )
    if len(values) > MANY:
        remedy = "save it with two, without smoothing and not as JPEG"
        raise InputError(path, f"holds {len(values)} grey values", remedy)
    if len(values) > 2:
        found = f"{', '.join(f'{value:g}' for value in values[:5])}{', ...' if len(values) > 5 else ''}"
        raise InputError(
            path, f"holds the values {found}", f"say what is particle: --label_value {values[1]:g}"
        )
    if values[0] != 0:
        found = f"{values[0]:g} and {values[1]:g} but no 0"
        raise InputError(path, f"holds {found}", f"say what is particle: --label_value {values[1]:g}")
    return pixels > 0


def _colours(pixels: Array) -> str:
    """Name the three commonest colours that are not grey."""
    flat = pixels[(pixels != pixels[..., :1]).any(axis=-1)].astype(np.int64)
    if not len(flat):
        return "it is all grey"
    codes, numbers = np.unique(flat @ [1 << 16, 1 << 8, 1], return_counts=True)
    common = codes[np.argsort(-numbers)[:3]]
    return "it holds " + " and ".join(f"{code >> 16},{code >> 8 & 255},{code & 255}" for code in common)
