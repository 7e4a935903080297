"""NIfTI files as planes, and the images of a prepared data set that are whole."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from carde_monai.draft import check_replaced
from carde_monai.errors import Failure, InputError
from carde_monai.sem import Scan
from carde_monai.sem_pixels import check_size

Array = npt.NDArray[Any]

CHUNK = 1 << 20


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


def scan(dataset_dir: str | Path) -> Scan:
    """The images of a prepared data set as MONAI items ``{"image": path}``, and those that are damaged.

    Each file is unpacked once, so that a damaged one fails here and does not stop the others later. Raises
    InputError if none is whole, or the data set was being replaced when `prepare` was stopped.
    """
    found = Scan()
    check_replaced(Path(dataset_dir))
    for path in sorted(Path(dataset_dir, "images").glob("*.nii.gz")):
        try:
            _check_image(path)
            found.items.append({"image": str(path)})
        except Exception as error:  # decoders raise whatever a broken file makes them stumble over
            if not isinstance(error, InputError):
                said = f"is damaged ({str(error).partition(chr(10))[0][:200]})"
                error = InputError(path, said, "prepare the data set again")
            found.failures.append(Failure(path.name.removesuffix(".nii.gz"), str(error)))
    if not found.items:
        first = f" ({found.failures[0].reason})" if found.failures else ""
        raise InputError(dataset_dir, f"holds no usable micrograph{first}", "prepare it again")
    return found


def _check_image(path: Path) -> None:
    """Raise whatever is wrong with an image as `prepare` writes it: (H, W, 1, 1, 2), packed."""
    image = nib.load(path)
    shape = image.shape
    if len(shape) != 5 or shape[2:] != (1, 1, 2):
        raise InputError(path, f"has the shape {shape}, not (H, W, 1, 1, 2)", "prepare the data set again")
    check_size(path, (shape[0], shape[1]), 2 * image.get_data_dtype().itemsize)
    start = image.header.get_data_offset()
    if _check_packed(path) < start + math.prod(shape) * image.get_data_dtype().itemsize:
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
