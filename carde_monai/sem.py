"""The one door for microscope files: pairs of detector images in, MONAI images in micrometres out."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from tqdm import tqdm

from carde_monai.errors import Failure, InputError
from carde_monai.info_bar import common_info_bar
from carde_monai.sem_files import Micrograph, find_micrographs, order_pair
from carde_monai.sem_metadata import FileMetadata, detector_channel, differ, plausible
from carde_monai.sem_pixels import PNG, TIFF, read_file

__all__ = ["Micrograph", "SEMImage", "SEMReader", "Scan", "find_micrographs", "read_micrograph", "scan"]

logger = logging.getLogger("carde_monai")

SAME_PIXEL = 0.01  # partners, and --pixel_size against the file, may differ by this share
MICRON, UNKNOWN = 3, 0  # NIFTI_UNITS_MICRON, NIFTI_UNITS_UNKNOWN
MANY = 20  # files that take long enough for a progress bar


@dataclass(frozen=True)
class SEMImage:
    """A micrograph without its info bar: (2, H, W) pixels, uint8 or uint16, channel 0 SE2, 1 InLens.

    ``pixel_size_um`` is None where nothing says it; ``source`` is what said it, or "unknown"; ``detectors``
    are the names in the files, in channel order; ``warnings`` are lines for the user.
    """

    pixels: npt.NDArray[Any]
    pixel_size_um: float | None
    info_bar_rows: int
    detectors: tuple[str | None, ...]
    source: str
    warnings: tuple[str, ...]


@dataclass
class Scan:
    """A folder of raw files as MONAI items ``{"image": [path, path], "name": name}``, and what failed.

    ``warnings`` are lines for the user.
    """

    items: list[dict[str, Any]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_micrograph(paths: str | Path | Sequence[str | Path], pixel_size: float | None = None) -> SEMImage:
    """Read the file or the pair of files of a micrograph; a single file fills both channels.

    Channels are ordered by the detectors that the files name, else as given (SE2, InLens). The info bar is
    cut from both alike. ``pixel_size`` in micrometres wins over the files' own, a difference is a warning.

    Raises:
        InputError: naming the file or both files, if one cannot be read or is no grey image, if the two
            differ in size, bit depth or pixel size, or both name the same detector.
    """
    check_pixel_size(pixel_size)
    given = [Path(path) for path in ((paths,) if isinstance(paths, str | Path) else paths)]
    files = list(dict.fromkeys(given))
    if not 1 <= len(files) <= 2:
        raise InputError(", ".join(map(str, files)) or "micrograph", f"{len(files)} files", "give one or two")
    read = {path: read_file(path) for path in files}
    if len(files) == 2:
        files = list(order_pair(files[0], files[1], *(read[path][1].detector for path in files)))
        _check_partners(files, [read[path][0] for path in files], [read[path][1] for path in files])
    images, metadata = [read[path][0] for path in files], [read[path][1] for path in files]
    warnings = [warning for one in metadata for warning in one.warnings]
    size, source = _pixel_size(files, metadata, pixel_size, warnings)
    height = images[0].shape[0]
    bar, complaints = common_info_bar(
        images, [height - one.image_rows if one.image_rows else None for one in metadata]
    )
    unnamed = [one.detector for one in metadata if one.detector and detector_channel(one.detector) is None]
    if unnamed and len(files) == 2:
        complaints.append(
            f"detector {' and '.join(unnamed)} is neither SE2 nor InLens; taken as the file numbers say"
        )
    pixels = np.stack([image[: height - bar] for image in (images * 2)[:2]])
    warnings += [f"{' and '.join(path.name for path in files)}: {complaint}" for complaint in complaints]
    return SEMImage(pixels, size, bar, tuple(one.detector for one in metadata), source, tuple(warnings))


def check_pixel_size(pixel_size: float | None) -> None:
    """Raise InputError unless ``pixel_size`` is None or a length in micrometres that can be a pixel."""
    number = isinstance(pixel_size, int | float) and not isinstance(pixel_size, bool)
    if pixel_size is not None and not (number and plausible(float(pixel_size))):
        raise InputError(
            "--pixel_size", f"{pixel_size} is no pixel size", "give micrometres, for example 0.00698"
        )


def check_contrast(image: SEMImage, paths: Sequence[Path]) -> None:
    """Raise InputError if half of a detector's pixels have one grey: its quartiles cannot scale the others.

    ``paths`` are the files in the order of the channels.
    """
    for path, channel in zip(paths, image.pixels, strict=False):
        # a sixteenth of the pixels tells that nearly all frames are in order
        for pixels in (channel[::4, ::4], channel):
            lower, upper = np.percentile(pixels, (25, 75))
            if lower != upper:
                break
        else:
            share = f"{100 * (channel == lower).mean():.0f} %"
            remedy = "scan it again with the detector on" + (
                ", or use the other one with --detectors 1" if len(paths) > 1 else ""
            )
            raise InputError(path, f"has the same grey ({lower:g}) in {share} of its pixels", remedy)


def _check_partners(files: list[Path], images: list[npt.NDArray[Any]], metadata: list[FileMetadata]) -> None:
    pair = f"{files[0]} and {files[1].name}"
    sizes = [f"{image.shape[1]} x {image.shape[0]}" for image in images]
    if sizes[0] != sizes[1]:
        raise InputError(
            pair, f"differ in size ({sizes[0]} and {sizes[1]} px)", "give two images of one scan"
        )
    bits = [8 * image.dtype.itemsize for image in images]
    if bits[0] != bits[1]:
        raise InputError(pair, f"differ in depth ({bits[0]} and {bits[1]} bit)", "save both alike")
    first, second = (one.pixel_size_um for one in metadata)
    if first and second and differ(first, second, SAME_PIXEL):
        raise InputError(
            pair, f"differ in pixel size ({first:.4g} and {second:.4g} um)", "give two images of one scan"
        )


def _pixel_size(
    files: list[Path], metadata: list[FileMetadata], given: float | None, warnings: list[str]
) -> tuple[float | None, str]:
    """Pixel size in micrometres and where it stands; adds to the warnings."""
    name, found = next(
        ((path.name, one) for path, one in zip(files, metadata, strict=True) if one.pixel_size_um),
        ("", FileMetadata()),
    )
    if given is None:
        return found.pixel_size_um, found.source
    if found.pixel_size_um and differ(given, found.pixel_size_um, SAME_PIXEL):
        warnings.append(
            f"{name}: --pixel_size {given:g} um is used, though the file says {found.pixel_size_um:.4g} um "
            f"({found.source})"
        )
    return float(given), "pixel_size"


class SEMReader(ImageReader):
    """MONAI reader of microscope files: one path or a pair gives (H, W, 2) and metadata in micrometres.

    ``pixel_size`` in micrometres wins over the files' own. Raises InputError as ``read_micrograph`` does.
    """

    def __init__(self, pixel_size: float | None = None) -> None:
        check_pixel_size(pixel_size)
        self.pixel_size = pixel_size

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether every file is a TIFF or PNG, whatever the case of its extension."""
        return all(Path(name).suffix.lower() in TIFF + PNG for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **_: Any) -> tuple[Path, ...]:
        """Take note of the paths; the files are opened by ``get_data``.

        LoadImage tries its other readers when this raises, and Pillow would return a pair that must not be
        read (different sizes, colour) as an array of another layout.
        """
        return tuple(Path(name) for name in ensure_tuple(data))

    def get_data(self, img: Sequence[Path]) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Return the (H, W, 2) array and its metadata.

        ``affine`` maps row and column to RAS micrometres, upright in medical viewers; where the pixel size is
        unknown it counts in pixels, ``xyzt_units`` is 0 and ``pixel_size_um`` NaN.
        """
        image = read_micrograph(tuple(img), self.pixel_size)
        size = image.pixel_size_um
        affine = pixel_affine(size)
        meta = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(image.pixels.shape[1:]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1,
            MetaKeys.SPACE: SpaceKeys.RAS,
            "xyzt_units": UNKNOWN if size is None else MICRON,
            "pixel_size_um": math.nan if size is None else size,
            "pixel_size_source": image.source,
            "info_bar_rows": image.info_bar_rows,
        }
        return np.moveaxis(image.pixels, 0, -1), {str(key): value for key, value in meta.items()}


def pixel_affine(pixel_size_um: float | None) -> npt.NDArray[np.float64]:
    """4 x 4 RAS affine of an (H, W) array: rows run to posterior, columns to left; in pixels if unknown."""
    edge = 1.0 if pixel_size_um is None else pixel_size_um
    affine = np.diag([0.0, 0.0, edge, 1.0])
    affine[0, 1] = affine[1, 0] = -edge
    return affine


def scan(folder: str | Path, detectors: int = 2, pixel_size: float | None = None) -> Scan:
    """Find the micrographs of a folder and read each once, so that a bad file fails here and not in a loop.

    Warnings are logged; the failures are for the caller to tell. Raises InputError when nothing is usable.
    """
    check_pixel_size(pixel_size)
    micrographs, failures = find_micrographs(folder, detectors)
    found, unknown = Scan(failures=list(failures)), []
    for one in tqdm(
        micrographs, desc="check", unit="micrograph", disable=None if len(micrographs) > MANY else True
    ):
        try:
            image = read_micrograph(one.paths, pixel_size)
            check_contrast(image, one.paths)
        except InputError as error:
            found.failures.append(Failure(one.name, str(error)))
            continue
        found.warnings += image.warnings
        if image.pixel_size_um is None:
            unknown.append(one.name)
        # the file that gives the micrograph its name stands first: MONAI names outputs after it
        named = sorted(one.paths, key=lambda path: not one.name.endswith(path.stem))
        found.items.append({"image": [str(path) for path in (named * 2)[:2]], "name": one.name})
    if unknown:
        found.warnings.append(
            f"{folder}: pixel size unknown for {len(unknown)} of {len(found.items)} micrographs (first "
            f"{unknown[0]}); results will be in pixels, --pixel_size gives it in micrometres"
        )
    for warning in found.warnings:
        logger.warning("%s", warning)
    if not found.items:
        first = f" ({found.failures[0].name}: {found.failures[0].reason})" if found.failures else ""
        raise InputError(folder, f"holds no usable micrograph{first}", "check the files")
    return found
