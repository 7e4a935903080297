"""The network as a package of BioImage.IO (specification 0.5), for Fiji, ilastik, napari and others."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from carde_monai.bioimage_description import FILES, MIN_SIDE, describe, readme
from carde_monai.errors import InputError
from carde_monai.export_formats import Checked, require, write_onnx
from carde_monai.export_model import INPUT, LOGIT, Model
from carde_monai.nifti import read_nifti
from carde_monai.pictures import VERMILLION, grey_to_rgb, outline, save_png, to_grey8
from carde_monai.synthetic import STEELS, synthesize_micrograph

SIDE = 512  # of the test image in pixels: small, but with quartiles like those of a frame
MULTIPLE = 64  # of every network's step, and of the test image's sides
SEED = 0  # of the synthetic test image

Array = npt.NDArray[Any]


def write_package(model: Model, path: Path, image: Path | None, pixel_size: float | None) -> Checked:
    """Write a package as ``path`` (.zip) and return how its ONNX was checked.

    It holds ONNX weights, normalisation and sigmoid as the specification says them, axes with the pixel size,
    and a test image with its probability as torch and MONAI's own normalisation compute it. The test image is
    the middle of ``image``, a prepared micrograph, or else synthetic steel; ``pixel_size`` in micrometres
    wins over the image's own.

    Raises:
        InputError: a package is missing, the network's normalisation cannot be said in the specification, or
            the image cannot be used.
    """
    require("bioimageio", "bioimageio", "bioimageio.spec")
    if model.normalization is None:
        wrong = "centres the channels by another value than percentiles, which the specification cannot say"
        raise InputError("--format bioimageio", f"this network {wrong}", "choose --format onnx")
    greys, found = _micrograph(image)
    size = found if pixel_size is None else pixel_size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checked = write_onnx(model, folder / FILES["weights"], LOGIT, "bioimageio")
        probability = _probability(model, greys)
        np.save(folder / FILES["input"], greys[None])
        np.save(folder / FILES["output"], probability[None, None])
        save_png(_cover(greys, probability), folder / FILES["cover"])
        (folder / FILES["documentation"]).write_text(readme(model), encoding="utf-8")
        _package(describe(model, size, checked.step), folder, path)
    return checked


def _micrograph(path: Path | None) -> tuple[npt.NDArray[np.float32], float | None]:
    """Greys (2, H, W) of the middle of a micrograph, at most SIDE wide and high; micrometres per pixel."""
    if path is None:
        steel = STEELS["jfl"]
        drawn = synthesize_micrograph(steel, (SIDE, SIDE), SEED)
        return np.stack([drawn.se2, drawn.inlens]).astype(np.float32), steel.pixel_size_um
    if not path.name.endswith(".nii.gz") or not path.is_file():
        remedy = "name DATA/images/NAME.nii.gz, which carde-monai prepare wrote"
        raise InputError(path, "is no prepared micrograph", remedy)
    greys, pixel_size = read_nifti(path)
    rows, columns = (min(SIDE, side // MULTIPLE * MULTIPLE) for side in greys.shape[:2])
    if greys.ndim != 3 or greys.shape[2] != 2 or min(rows, columns) < MIN_SIDE:
        remedy = f"give two channels of at least {MIN_SIDE} x {MIN_SIDE} px"
        raise InputError(path, f"has the shape {greys.shape}", remedy)
    top, left = (greys.shape[0] - rows) // 2, (greys.shape[1] - columns) // 2
    middle = greys[top : top + rows, left : left + columns].transpose(2, 0, 1).astype(np.float32)
    lower, upper = np.percentile(middle, (25, 75), axis=(1, 2))
    if (lower == upper).any():
        raise InputError(path, "has the same grey in half of its middle", "choose another micrograph")
    return middle, pixel_size


@torch.no_grad()
def _probability(model: Model, greys: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probability (H, W) by the configs' own normalisation and torch, not by what the package says."""
    scaled = model.parser.get_parsed_content("normalize")({INPUT: torch.from_numpy(greys)})[INPUT]
    logit = model.network(torch.as_tensor(scaled, dtype=torch.float32)[None])
    return torch.sigmoid(logit)[0, 0].numpy()


def _cover(greys: Array, probability: Array) -> Image.Image:
    """The micrograph (SE2) and, to its right, the same with the outline of the carbides."""
    plain = grey_to_rgb(to_grey8(greys[0]))
    drawn = plain.copy()
    drawn[outline(probability > 0.5)] = VERMILLION
    return Image.fromarray(np.concatenate([plain, drawn], axis=1))


def _package(description: dict[str, Any], folder: Path, path: Path) -> None:
    """Let the specification's own library check the description and zip it with the files of ``folder``."""
    from bioimageio.spec import (
        InvalidDescr,
        ValidationContext,
        build_description,
        save_bioimageio_package_to_stream,
    )
    from loguru import logger as their_logger

    their_logger.disable("bioimageio")
    # known addresses are not asked for: an export needs no network
    known = {one["url"]: None for one in description["cite"]}
    with ValidationContext(root=folder, known_files=known):
        checked = build_description(description)
        if isinstance(checked, InvalidDescr):
            first = checked.validation_summary.errors[0]
            wrong = f"the specification refuses {'.'.join(map(str, first.loc))} ({first.msg})"
            raise InputError("--format bioimageio", wrong, "correct the bundle's configs/metadata.json")
        with path.open("wb") as stream:
            save_bioimageio_package_to_stream(checked, output_stream=stream)
