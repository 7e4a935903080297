"""Masks from anywhere as fields to measure: this project's, a person's, Fiji's, other programs' NIfTI."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tifffile
from tqdm import tqdm

from carde_monai.errors import Failure, InputError
from carde_monai.gallery import picture_side
from carde_monai.labels import SUFFIXES, LabelRule, cut_to, read_picture, to_particles
from carde_monai.locking import claimed
from carde_monai.measurement import (
    Field,
    Measured,
    Settings,
    check_group_by,
    measure,
    remove_results,
    sample_name,
    write_results,
)
from carde_monai.nifti import read_nifti
from carde_monai.pixel_sizes import PixelSizes
from carde_monai.sem import read_micrograph
from carde_monai.sem_files import RESULTS, Micrograph, find_micrographs, with_unique_names
from carde_monai.sem_pixels import check_size, read_file_metadata

logger = logging.getLogger("carde_monai")

Array = npt.NDArray[Any]

NIFTI = (".nii.gz", ".nii")
ANY, UNKNOWN = LabelRule(), PixelSizes(None)  # all that is not 0; what the files say
# what stands at the end of a name, the likeliest mask first; the rest of the name is the micrograph's
MASKS = ("_mask", "_label", "_labels", "_cp_masks")
NUMBERED = ("_labels", "_cp_masks")  # by this project and by Cellpose: each particle has its number
NO_FOLDERS = {"quicklook", "figures"}
PROBABILITIES = ("_probability.tif", "_probability.nii.gz")


@dataclass(frozen=True)
class Source:
    """Where masks lie, where their micrographs lie (None: nowhere), and how both are to be read.

    Raises InputError for a regular expression that is none, and for instances with a rule.
    """

    masks: Path
    images: Path | None = None
    rule: LabelRule = ANY
    instances: bool = False
    sizes: PixelSizes = UNKNOWN
    group_by: str | None = None

    def __post_init__(self) -> None:
        check_group_by(self.group_by)
        if self.instances and self.rule != ANY:
            raise InputError("--instances", "given together with a value or colour", "leave out one of them")


def find_masks(folder: Path) -> tuple[list[Micrograph], list[Failure]]:
    """Find the masks below a folder, one a micrograph, and those whose names clash.

    Where some names end in ``_mask``, ``_label``, ``_labels`` or ``_cp_masks``, only these count, and of
    several of one micrograph the first in this order; elsewhere every picture is a mask, but for what else
    `segment` writes. Raises InputError if the folder holds none or does not exist.
    """
    if folder.is_file() and _suffix(folder):
        return [Micrograph(_split(folder)[0], (folder,))], []
    if not folder.is_dir():
        wrong = "is no picture" if folder.exists() else "no such folder"
        raise InputError(folder, wrong, "give the folder that holds the masks")
    places: dict[tuple[Path, str], dict[str, Path]] = defaultdict(dict)
    failures, clashes = [], []
    for path in _pictures(folder):
        name, role = _split(path)
        if role in RESULTS:
            continue
        roles = places[path.parent, name]
        if role in roles:
            error = InputError(path, f"{roles[role].name} is a mask of the same name", "keep one of them")
            failures.append(Failure(name, str(error)))
            clashes.append((roles, role))
            continue
        roles[role] = path
    for roles, role in clashes:
        roles.pop(role, None)
    marked = any(role for roles in places.values() for role in roles)
    found = []
    for (_, name), roles in sorted(places.items()):
        for role in MASKS if marked else ("",):
            if role in roles:
                found.append(Micrograph(name, (roles[role],)))
                break
    if not found and not failures:
        kinds = ", ".join((*SUFFIXES, *NIFTI))
        raise InputError(folder, f"holds no masks ({kinds})", "give the folder that holds the masks")
    return with_unique_names(folder, found, failures), failures


def _pictures(folder: Path) -> list[Path]:
    files = []
    for root, folders, names in os.walk(folder):
        folders[:] = [
            one
            for one in folders
            if not one.startswith(".")
            and one.lower() not in NO_FOLDERS
            and not Path(root, one, "micrographs.csv").exists()  # of an earlier measurement
        ]
        files += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(path for path in files if _suffix(path))


def _suffix(path: Path) -> str:
    """The extension, if it is one of a picture; else empty."""
    return next((one for one in (*NIFTI, *SUFFIXES) if path.name.lower().endswith(one)), "")


def _split(path: Path) -> tuple[str, str]:
    """Name of the micrograph and the role that its end tells, "" if none."""
    stem = path.name[: -len(_suffix(path))]
    role = next((one for one in (*MASKS, *RESULTS) if stem.lower().endswith(one)), "")
    return (stem[: -len(role)], role) if role and len(stem) > len(role) else (stem, "")


def find_images(folder: Path, detectors: int) -> dict[str, Micrograph]:
    """The micrographs of a folder by name: of a prepared data set, or raw microscope files."""
    for place in (folder / "images", folder):
        prepared = sorted(place.glob("*.nii.gz"))
        if prepared:
            return {path.name[: -len(".nii.gz")]: Micrograph(path.name, (path,)) for path in prepared}
    return {one.name: one for one in find_micrographs(folder, detectors)[0]}


def read_field(mask: Micrograph, source: Source, images: dict[str, Micrograph]) -> Field:
    """Read a mask with what is known of its micrograph: greys, pixel size, probability of the network.

    The pixel size is that of ``source``, else the mask file's, else the micrograph's, else that of the
    probability beside the mask. A mask of the full frame is cut like its micrograph.

    Raises:
        InputError: a file cannot be read, or sizes differ.
    """
    path = mask.paths[0]
    base = path.name[: -len(_suffix(path))]
    name = _split(path)[0]
    micrograph = next((images[one] for one in (mask.name, name, base) if one in images), None)
    given = source.sizes.of(mask.name, name, path.name)
    image, bar, sizes = None, 0, []
    if micrograph is not None:
        image, bar, size, where = read_image(micrograph, given)
        sizes.append((size, where))
    frame = None if image is None else (image.shape[1], image.shape[2])
    particles, size = _read_particles(path, source, frame, bar)
    probability, probability_size = _read_probability(path.parent, name, particles.shape)
    sizes = [(given, "pixel_size"), (size, f"mask file {path.name}"), *sizes]
    sizes.append((probability_size, f"file {name}{PROBABILITIES[0]}"))
    pixel_size, where = next(((size, where) for size, where in sizes if size), (None, "unknown"))
    return Field(
        name=mask.name,
        sample=sample_name(path, source.masks, source.group_by),
        particles=particles,
        pixel_size_um=pixel_size,
        pixel_size_source=where,
        image=image,
        probability=probability,
    )


def read_image(one: Micrograph, pixel_size: float | None) -> tuple[Array, int, float | None, str]:
    """(2, H, W) greys, rows of the info bar, pixel size in micrometres and where that stands."""
    if _suffix(one.paths[0]) in NIFTI:
        pixels, size = read_nifti(one.paths[0])
        pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        if pixels.shape[-1] > 2:
            raise InputError(one.paths[0], f"has {pixels.shape[-1]} channels", "give one or two: SE2, InLens")
        return np.moveaxis(pixels, -1, 0), 0, size, f"header of {one.paths[0].name}"
    read = read_micrograph(one.paths, pixel_size)
    return read.pixels, read.info_bar_rows, read.pixel_size_um, read.source


def _read_particles(
    path: Path, source: Source, frame: tuple[int, int] | None, bar: int
) -> tuple[Array, float | None]:
    """Mask or numbers, and the pixel size that the file tells; ``frame`` is the shape of the micrograph."""
    if _suffix(path) in NIFTI:
        pixels, size = read_nifti(path)
        if pixels.ndim != 2:
            raise InputError(path, f"has {pixels.shape[-1]} channels", "give a mask of one channel")
    else:
        pixels, size = read_picture(path, source.rule), read_file_metadata(path).pixel_size_um
    if frame is not None:
        pixels = cut_to(pixels, frame, bar, path, Path("its micrograph"))
    numbered = source.instances or _split(path)[1] in NUMBERED
    return to_particles(pixels, source.rule, path, numbered), size


def _read_probability(folder: Path, name: str, shape: tuple[int, ...]) -> tuple[Array | None, float | None]:
    """What `segment` or ``inference.json`` wrote beside the mask, and its pixel size; None if nothing."""
    for path in (folder / f"{name}{end}" for end in PROBABILITIES):
        if not path.is_file():
            continue
        if _suffix(path) in NIFTI:
            probability, size = read_nifti(path)
        else:
            probability, size = _read_float(path), read_file_metadata(path).pixel_size_um
        if probability.shape != shape:
            raise InputError(path, f"{_px(probability.shape)} but the mask has {_px(shape)}", "remove one")
        return probability, size
    return None, None


def _read_float(path: Path) -> Array:
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            check_size(path, (page.imagelength, page.imagewidth), page.bitspersample / 8)
            return file.asarray()
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever a broken file makes them stumble over
        raise InputError(path, f"cannot be read ({error})", "write it again, or remove it") from error


def _px(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} px"


def measure_masks(source: Source, dest: Path, settings: Settings, detectors: int = 2) -> list[Failure]:
    """Measure the masks of a folder as `segment` measures its own; returns those that failed.

    Where ``source.masks`` holds folders ``labels`` and ``images`` (a prepared data set, for one), those are
    taken for the masks and, unless others are named, their micrographs. Files: `measurement.write_results`.

    Raises:
        InputError: there are no masks or micrographs, or none can be measured.
    """
    title = f"Carbides in {source.masks.absolute().name}"
    if dest.resolve() in (source.masks.resolve(), source.masks.resolve().parent / "labels"):
        raise InputError(dest, "is the folder of the masks itself", "choose another for the results")
    with claimed(dest):
        remove_results(dest)
        return _measure_all(source, dest, settings, detectors, title)


def _measure_all(source: Source, dest: Path, settings: Settings, detectors: int, title: str) -> list[Failure]:
    inside = source.masks / "labels", source.masks / "images"
    if all(folder.is_dir() for folder in inside):
        source = replace(source, masks=inside[0], images=source.images or inside[1])
    found, failures = find_masks(source.masks)
    images = find_images(source.images, detectors) if source.images else {}
    side = picture_side(len(found))
    measured: list[Measured] = []
    for mask in tqdm(found, desc="measure", unit="micrograph"):
        try:
            measured.append(measure(read_field(mask, source, images), dest, settings, side))
        except (InputError, OSError) as error:
            failures.append(Failure.of(mask.name, error))
    warnings = _warnings(source, measured)
    for line in warnings:
        logger.warning("%s", line)
    facts = {"carbide": _rule(source.rule)}
    if measured or not failures:
        write_results(
            measured, dest, settings, title=title, facts=facts, warnings=warnings, failures=failures
        )
    return failures


def _warnings(source: Source, measured: Sequence[Measured]) -> list[str]:
    """What lacks: pixel sizes, micrographs."""
    lines = source.sizes.complaints()
    unknown = [one.name for one in measured if pd.isna(one.row["pixel_size_um"])]
    if unknown:
        lines.append(
            f"{source.masks}: pixel size unknown for {len(unknown)} of {len(measured)} masks (first "
            f"{unknown[0]}); results are in pixels, --pixel_size gives it in micrometres"
        )
    blank = [one.name for one in measured if not one.picture.has_image]
    if source.images and blank:
        lines.append(
            f"{source.images}: holds no micrograph of {len(blank)} of {len(measured)} masks (first "
            f"{blank[0]}); measured without greys"
        )
    return lines


def _rule(rule: LabelRule) -> str:
    if rule.values is not None:
        return f"value {', '.join(map(str, rule.values))} of the masks"
    return f"colour {rule.colour} of the masks" if rule.colour else "all that is not 0 in the masks"
