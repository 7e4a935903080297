"""What a BioImage.IO package says of the network: the description after specification 0.5, and the README."""

from __future__ import annotations

from typing import Any

import numpy as np

from carde_monai.download import DATASETS
from carde_monai.export_formats import OPSET
from carde_monai.export_model import INPUT, PROBABILITY, Model, citations

FORMAT = "0.5.5"  # of the specification; its library reads every 0.5
FILES = {
    "weights": "weights.onnx",
    "input": "image.npy",
    "output": "probability.npy",
    "cover": "cover.png",
    "documentation": "README.md",
}
MIN_SIDE, HALO = 128, 32  # of a tile in pixels; what is cut off each of its sides
TAGS = ["2d", "unet", "pytorch", "semantic-segmentation", "electron-microscopy"]  # of BioImage.IO's lists
TAGS += ["scanning electron microscopy", "steel", "carbide", "materials science", "MONAI"]


def describe(model: Model, pixel_size: float | None, step: int) -> dict[str, Any]:
    """The description of a package of `FILES`; ``pixel_size`` in micrometres, ``step`` divides sides."""
    told = model.told(PROBABILITY, step)
    return {
        "type": "model",
        "format_version": FORMAT,
        "name": model.metadata["name"],
        "version": model.metadata["version"],
        "description": model.metadata["description"],
        "authors": [{"name": model.metadata["authors"]}],
        "license": told["license"],
        "cite": _cite(model),
        "tags": TAGS,
        "covers": [FILES["cover"]],
        "documentation": FILES["documentation"],
        "inputs": [_input(model, pixel_size, step)],
        "outputs": [_output(pixel_size)],
        "weights": {"onnx": {"source": FILES["weights"], "opset_version": OPSET}},
        "config": {"carde_monai": told},
    }


def _input(model: Model, pixel_size: float | None, step: int) -> dict[str, Any]:
    scaling = model.normalization
    assert scaling is not None
    percentiles = {"min_percentile": scaling.lower, "max_percentile": scaling.upper}
    # without "channel" and "batch": each channel of each image by itself
    steps: list[dict[str, Any]] = [{"id": "scale_range", "kwargs": {"axes": ["y", "x"], **percentiles}}]
    if (scaling.gain, scaling.offset) != (1, 0):
        steps.append({"id": "scale_linear", "kwargs": {"gain": scaling.gain, "offset": scaling.offset}})
    size = {"min": MIN_SIDE, "step": step}
    return {
        "id": INPUT,
        "description": "both detectors of a whole frame, raw greys; one detector goes into both channels",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": list(model.channels)},
            *(_space(axis, pixel_size, size=size, concatenable=True) for axis in "yx"),
        ],
        "data": {"type": "float32"},
        "preprocessing": steps,
        "test_tensor": {"source": FILES["input"]},
    }


def _output(pixel_size: float | None) -> dict[str, Any]:
    return {
        "id": PROBABILITY,
        "description": "calibrated probability of carbide; carbide where it is above 0.5",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": ["carbide"]},
            *(
                _space(axis, pixel_size, size={"tensor_id": INPUT, "axis_id": axis}, halo=HALO)
                for axis in "yx"
            ),
        ],
        "data": {"type": "float32", "range": [0.0, 1.0]},
        "postprocessing": [{"id": "sigmoid"}],
        "test_tensor": {"source": FILES["output"]},
    }


def _space(axis: str, pixel_size: float | None, **settings: Any) -> dict[str, Any]:
    described = {"type": "space", "id": axis, **settings}
    if pixel_size is None:
        return described
    # in single precision: the library multiplies a side by it, divides, and cuts what is not a whole number
    return described | {"unit": "micrometer", "scale": float(np.float32(pixel_size))}


def _cite(model: Model) -> list[dict[str, str]]:
    found = [{"text": text, "url": url} for text, url in citations(model)]
    paper = next((one for one in model.metadata["references"] if "http" not in one), "")
    if paper:  # an entry needs an address; that of the paper's data and weights
        found.insert(0, {"text": paper, "url": DATASETS["carde"].page})
    return found


def readme(model: Model) -> str:
    """The package's documentation: how to use it, then what the bundle says of data, training and results."""
    told = model.told(PROBABILITY)
    own = f"""# {model.metadata["name"]}

{model.metadata["description"]}.

## Use

Input: {" and ".join(model.channels)}, in this order, raw greys of the whole frame without the microscope's
info bar; an image of one detector goes into both channels. The package normalises by itself
({model.normalization}),
so give it whole frames, not tiles cut beforehand. Output: the calibrated probability of carbide; carbide
where it is above 0.5.

## Validation

Calibration: {told["calibration"]}. To validate on micrographs of your own, annotate some and run
`carde-monai prepare` and `carde-monai evaluate`: Dice, object scores and calibration, micrograph by
micrograph. What was measured on the bundle's own test micrographs stands under Performance below.

Weights: SHA-256 {told["weights_sha256"]}. {told["intended_use"]}.
"""
    bundle = model.files[0].parent.parent / "docs" / "README.md"
    if bundle.is_file():
        own += "\n---\n\n" + bundle.read_text(encoding="utf-8")
    return own
