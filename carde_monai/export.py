"""A bundle's network as a file for other programs: what ``carde-monai export`` does."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from carde_monai.bioimage import write_package
from carde_monai.bundles import packaged_bundle
from carde_monai.errors import InputError
from carde_monai.export_formats import WRITERS, Checked
from carde_monai.export_model import Model, load_model
from carde_monai.locking import claimed
from carde_monai.replacing import all_or_none
from carde_monai.sem import check_pixel_size

SUFFIXES = {
    **{"pt": ".pt", "pt2": ".pt2", "ts": ".ts"},
    **{"onnx": ".onnx", "openvino": ".xml", "bioimageio": ".zip"},
}
BESIDE = {"pt": ".json", "openvino": ".bin"}  # the second file

logger = logging.getLogger("carde_monai")


def export(
    dest: str | Path,
    format: str | None = None,
    bundle: str | Path | None = None,
    overlays: Sequence[str] = (),
    image: str | Path | None = None,
    pixel_size: float | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write the network of a bundle as a file that other programs load; returns the files.

    ``dest`` is a file, whose ending tells the format if ``format`` does not, or a folder, which gets
    ``model`` and that ending. ``image`` is a prepared micrograph for the test of a BioImage.IO package, and
    ``pixel_size`` its pixel size in micrometres. What is written is read back and compared with torch; files
    that are there already are replaced, or left alone on an error.

    Raises:
        InputError: ``dest``, the format, the bundle, its weights or an override do not fit, or a package that
            the format needs is not installed.
    """
    target, format = _target(Path(dest), format)
    check_pixel_size(pixel_size)
    if format != "bioimageio" and (image is not None or pixel_size is not None):
        option = "--image" if image is not None else "--pixel_size"
        raise InputError(option, f"is for packages only, not for a file of format {format}")
    root = Path(bundle) if bundle else packaged_bundle()
    model = load_model(root, overlays, overrides or {}, target.parent)
    paths = [target, *([target.with_suffix(BESIDE[format])] if format in BESIDE else [])]
    if target.resolve() == model.weights.resolve():
        raise InputError(target, "holds the weights that are to be exported", "choose another name")
    with _claimed(Path(dest)), all_or_none(target.parent) as scratch:
        draft = scratch / target.name
        if format == "bioimageio":
            checked = write_package(model, draft, Path(image) if image else None, pixel_size)
        else:
            checked = WRITERS[format](model, draft)
    logger.info("%s: %s", " and ".join(map(str, paths)), _described(model, format, checked))
    return paths


def _target(dest: Path, format: str | None) -> tuple[Path, str]:
    """The file to write and its format."""
    choices = ", ".join(SUFFIXES)
    if format is not None and format not in SUFFIXES:
        raise InputError(f"--format {format}", "is no format", f"choose from {choices}")
    suffix = "" if dest.is_dir() else dest.suffix.lower()
    if not suffix:
        if dest.is_file():
            raise InputError(dest, "is a file without an ending", "name a folder or, say, model.onnx")
        if format is None:
            raise InputError(dest, "does not tell the format", f"add --format, one of {choices}")
        return dest / f"model{SUFFIXES[format]}", format
    told = next((name for name, one in SUFFIXES.items() if one == suffix), None)
    if told is None or format not in (None, told):
        remedy = f"let it end in {SUFFIXES[format]}" if format else f"add --format, one of {choices}"
        raise InputError(dest, "has another ending than the format" if format else "tells no format", remedy)
    return dest, told


def _claimed(dest: Path) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if dest.suffix and not dest.is_dir() else claimed(dest)


def _described(model: Model, format: str, checked: Checked | None) -> str:
    network = f"{', '.join(model.channels)} to {'logit' if format in ('pt', 'ts') else 'probability'}"
    if checked is None:
        return network
    agrees = f"agrees with torch within {checked.difference:.0e}"
    return f"{network}, sides multiples of {checked.step} px; {agrees}"
