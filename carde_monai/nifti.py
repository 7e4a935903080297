"""NIfTI files as planes, and the images of a prepared data set that are whole."""

from __future__ import annotations

import gzip
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from carde_monai.draft import check_replaced
from carde_monai.errors import Failure, InputError
from carde_monai.sem import Scan, pixel_affine
from carde_monai.sem_pixels import check_size

logger = logging.getLogger("carde_monai")

Array = npt.NDArray[Any]

CHUNK = 1 << 20
SUFFIX = (".nii", ".nii.gz")
# ITK takes a vector image of one slice for a plane, and its 3-D readers make that 1 mm thick; a label of any
# other thickness would not have the geometry of its image in 3D Slicer and ITK-SNAP.
THICKNESS_UM = 1000.0


def read_nifti(path: Path) -> tuple[Array, float | None]:
    """A plane of NIfTI as (H, W), or (H, W, C), upright as in medical viewers, and its pixel size.

    The pixel size is in micrometres; None unless the header's unit of length is the micron, for programs
    that know only millimetres write any number as millimetres. Raises InputError if it is no plane.
    """
    try:
        image = nib.load(path)
        rows, *others = image.shape
        check_size(path, (rows, math.prod(others)), image.get_data_dtype().itemsize)
        _check_packed(path)
        values = np.asarray(image.dataobj)
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever a broken file makes them stumble over
        raise InputError(path, f"cannot be read ({error})", "write it again") from error
    values = values.reshape(*values.shape, *([1] * (3 - values.ndim)))
    if values.shape[2] != 1 or (
        values.ndim > 3 and values.size != np.prod(values.shape[:2]) * values.shape[-1]
    ):
        raise InputError(path, f"has the shape {values.shape}", "give single planes")
    orientation = nib.orientations
    turn = orientation.ornt_transform(
        orientation.io_orientation(image.affine), orientation.axcodes2ornt(("P", "L", "S"))
    )
    plane = orientation.apply_orientation(values, turn)
    known = image.header.get_xyzt_units()[0] == "micron"
    size = float(image.header.get_zooms()[0]) if known else None
    plane = plane.reshape(*plane.shape[:2], -1)
    return (plane[..., 0] if plane.shape[-1] == 1 else plane), size


def write_nifti(array: npt.NDArray[Any], path: Path, pixel_size_um: float | None) -> None:
    """Write (H, W, 1) or, as a vector image, (H, W, 1, 1, C) as NIfTI that stands upright in medical viewers.

    Rows run to posterior, columns to left; lengths are in micrometres, or in pixels (unit unknown) where the
    pixel size is None.
    """
    affine = pixel_affine(pixel_size_um)
    affine[2, 2] = 1.0 if pixel_size_um is None else THICKNESS_UM
    image = nib.Nifti1Image(np.ascontiguousarray(array), affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("micron" if pixel_size_um else "unknown")
    if array.ndim == 5:
        image.header.set_intent("vector")
    nib.save(image, path)  # nibabel compresses at level 1: fast, and micrographs hardly shrink further


def scan(dataset_dir: str | Path) -> Scan:
    """The images of a prepared data set as MONAI items ``{"image": path}``, and those that are damaged.

    Each file is unpacked once, so that a damaged one fails here and does not stop the others later. Raises
    InputError if none is whole, or the data set was being replaced when `prepare` was stopped.
    """
    found = Scan()
    check_replaced(Path(dataset_dir))
    for path in sorted(Path(dataset_dir, "images").glob("*.nii.gz")):
        if wrong := damage(path, image=True):
            found.failures.append(Failure(path.name.removesuffix(".nii.gz"), str(wrong)))
        else:
            found.items.append({"image": str(path)})
    _check_any(found, dataset_dir)
    return found


def whole(items: Iterable[Mapping[str, str]], dataset_dir: str | Path) -> Scan:
    """Those of the items of `datalist.load` whose image and label are whole, and the others as failures.

    A warning tells how many there are. Raises InputError if no item is whole.
    """
    found = Scan()
    for item in items:
        if wrong := damage(Path(item["image"]), image=True) or damage(Path(item["label"])):
            found.failures.append(Failure(item["name"], str(wrong)))
        else:
            found.items.append(dict(item))
    _check_any(found, dataset_dir)
    if found.failures:
        count = len(found.items)
        those = "this one" if count == 1 else f"these {count}"
        text = "%s: %d of %d micrographs can be read; all figures are of %s"
        logger.warning(text, dataset_dir, count, count + len(found.failures), those)
    return found


def _check_any(found: Scan, dataset_dir: str | Path) -> None:
    if not found.items:
        first = f" ({found.failures[0].reason})" if found.failures else ""
        raise InputError(dataset_dir, f"holds no usable micrograph{first}", "prepare it again")


def damage(path: Path, image: bool = False) -> InputError | None:
    """What is wrong with a file of NIfTI that cannot be read to its end; None if nothing.

    With ``image`` it should have the shape in which `prepare` writes images, (H, W, 1, 1, 2).
    """
    try:
        _check_whole(path, image)
    except InputError as error:
        return error
    except Exception as error:  # decoders raise whatever a broken file makes them stumble over
        said = f"is damaged ({str(error).partition(chr(10))[0][:200]})"
        return InputError(path, said, "prepare the data set again")
    return None


def _check_whole(path: Path, is_image: bool) -> None:
    image = nib.load(path)
    shape = image.shape
    if is_image and (len(shape) != 5 or shape[2:] != (1, 1, 2)):
        raise InputError(path, f"has the shape {shape}, not (H, W, 1, 1, 2)", "prepare the data set again")
    bytes_each = image.get_data_dtype().itemsize
    check_size(path, (shape[0], math.prod(shape[1:2])), math.prod(shape[2:]) * bytes_each)
    size = _check_packed(path) or path.stat().st_size
    if size < image.header.get_data_offset() + math.prod(shape) * bytes_each:
        raise EOFError("it is cut off")


def _check_packed(path: Path) -> int:
    """Unpack a gzip file to its end, where its checksum stands, and return its bytes; 0 if it is not packed.

    nibabel stops before the checksum. Raises what gzip raises for a file that is cut or changed.
    """
    if path.suffix.lower() != ".gz":
        return 0
    size = 0
    with gzip.open(path) as file:
        while block := file.read(CHUNK):
            size += len(block)
    return size
