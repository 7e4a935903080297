"""Segments arrays in memory, by the configs with which ``carde-monai segment`` segments files."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from monai.bundle import ConfigParser
from monai.utils import convert_to_tensor

from carde_monai import bundles
from carde_monai.bundle_checks import explained
from carde_monai.errors import InputError
from carde_monai.particles import MIN_AREA, label_particles, measure_particles
from carde_monai.provenance import weight_files
from carde_monai.sem import MICRON, UNKNOWN, SEMImage, check_contrast, check_pixel_size, pixel_affine

__all__ = ["Segmentation", "segment"]

Array = npt.NDArray[Any]
Stamp = tuple[str, int, int]

# what segment.json says of files, which there are none of here
NO_FILES = {"dataloader#dataset": "@dataset", "passing_over#discard": None}


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A segmented micrograph: ``mask`` (H, W) bool, ``probability`` (H, W) float32, calibrated.

    ``image`` is (2, H, W), channel 0 SE2, 1 InLens; ``pixel_size_um`` is None where it is not known.
    """

    mask: npt.NDArray[np.bool_]
    probability: npt.NDArray[np.float32]
    image: Array
    pixel_size_um: float | None = None

    def carbides(self, min_area: int = MIN_AREA, split_touching: bool = False) -> pd.DataFrame:
        """A row a carbide, as `particles.measure_particles` has them; in pixels without a pixel size.

        Carbides of fewer than ``min_area`` pixels are left out.
        """
        labels = label_particles(self.mask, split_touching=split_touching, min_area=min_area)
        given = {"image": self.image, "probability": self.probability}
        return measure_particles(labels, self.pixel_size_um, **given)


def segment(
    se2: npt.ArrayLike,
    inlens: npt.ArrayLike | None = None,
    bundle: str | Path | None = None,
    pixel_size: float | None = None,
    *,
    overlay: str | None = None,
) -> Segmentation:
    """Segment a micrograph in memory, with the result that ``carde-monai segment`` has for its files.

    The network is loaded once and kept for the next call, until the bundle's weights or configs change.

    Args:
        se2: (H, W) greys of the SE2 detector without the info bar, integers or floating point.
        inlens: (H, W) greys of InLens; without it ``se2``, of whatever detector, fills both channels.
        bundle: folder of a trained bundle; the packaged one if not given.
        pixel_size: edge of a pixel in micrometres, for `Segmentation.carbides` and the overlay spacing.
        overlay: configs of another network or way to infer, by name (unet, tta), several with commas. The
            packaged bundle has spacing in any case.

    Raises:
        InputError: a detector's array is not (H, W), holds NaN or no greys or (nearly) one grey only, the two
            differ in size, the pixel size cannot be one, or the bundle or its weights cannot be used.
    """
    check_pixel_size(pixel_size)
    pixels = _channels(se2, inlens)
    root = Path(bundle) if bundle else bundles.packaged_bundle()
    names = overlay.split(",") if overlay else []
    model = _model(root, tuple(names if bundle else bundles.with_packaged(names)), _stamps(root))
    mask, probability = model(pixels, pixel_size)
    return Segmentation(mask, probability, pixels, pixel_size)


def _channels(se2: npt.ArrayLike, inlens: npt.ArrayLike | None) -> Array:
    """(2, H, W) greys, checked as those of files are."""
    given = {"se2": se2} if inlens is None else {"se2": se2, "inlens": inlens}
    planes = [_plane(name, one) for name, one in given.items()]
    sizes = [f"{one.shape[1]} x {one.shape[0]}" for one in planes]
    if sizes[0] != sizes[-1]:
        wrong = f"differ in size ({' and '.join(sizes)} px)"
        raise InputError("se2 and inlens", wrong, "give two images of one scan")
    pixels = np.stack((planes * 2)[:2])
    check_contrast(SEMImage(pixels, None, 0, (), "unknown", ()), [Path(name) for name in given])
    return pixels


def _plane(name: str, image: npt.ArrayLike) -> Array:
    greys = np.asarray(image)
    if greys.ndim != 2 or not greys.size:
        raise InputError(name, f"has the shape {greys.shape}, not (H, W)", "give one grey image as an array")
    if greys.dtype.kind not in "iuf":
        raise InputError(name, f"holds {greys.dtype}, no greys", "give whole or floating-point numbers")
    if greys.dtype.kind == "f":
        with np.errstate(over="ignore"):
            greys = greys.astype(np.float32)
        if not np.isfinite(greys).all():
            raise InputError(name, "has pixels that are no number", "put a grey in the place of each")
    return greys


class _Model:
    """The evaluator of a bundle's configs with its weights, for one image after the other."""

    def __init__(self, root: Path, overlays: Sequence[str]) -> None:
        parser = ConfigParser()
        files = bundles.config_files(root, ["inference", "segment", *overlays])
        # bundles that were made by an earlier version have none
        parser.read_config([*files, *bundles.config_files(bundles.packaged_bundle(), ["in_memory"])])
        parser.update({"bundle_root": str(root), "images": [None], **NO_FILES})
        with explained(parser, {}):
            self.weights = parser.get_parsed_content("weights")
            if missing := [one for one in weight_files(self.weights) if not one.is_file()]:
                remedy = "train first (carde-monai train), or name another bundle"
                raise InputError(missing[0], "there are no such weights", remedy)
            self.evaluator = parser.get_parsed_content("evaluator")
            parser.get_parsed_content("checkpointloader")(self.evaluator)
        self.items = parser.get_parsed_content("dataset").data
        self.results = parser.get_parsed_content("results")
        self.failures = parser.get_parsed_content("passing_over").failures
        self.lock = threading.Lock()  # an engine runs once at a time

    def __call__(
        self, pixels: Array, pixel_size: float | None
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Mask and probability, both (H, W)."""
        with self.lock:
            before = self.items[:]
            image: Any = convert_to_tensor(np.moveaxis(pixels, 0, -1), track_meta=True)
            image.affine = pixel_affine(pixel_size)
            image.meta["xyzt_units"] = MICRON if pixel_size else UNKNOWN
            self.items[:] = [{"image": image, "name": "micrograph"}]
            try:
                self.evaluator.run()
                if self.failures:
                    wrong = "the network's output is not a number"
                    raise InputError(self.weights, wrong, "check the checkpoint and the image")
                ((found,),) = self.results.data
            finally:
                self.items[:] = before
                self.results.reset()
        return found["mask"], found["probability"]


@lru_cache(maxsize=2)
def _model(root: Path, overlays: tuple[str, ...], stamps: tuple[Stamp, ...]) -> _Model:
    return _Model(root, overlays)


def _stamps(root: Path) -> tuple[Stamp, ...]:
    """Tells whether weights or configs have changed."""
    files = sorted((*root.glob("models/*.pt"), *root.glob("configs/*.json")))
    return tuple((str(one), one.stat().st_mtime_ns, one.stat().st_size) for one in files)
