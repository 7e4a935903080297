"""What napari is to show of a folder of results, without napari: a micrograph's layers and their scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

from carde_monai.errors import InputError, user_mistake
from carde_monai.pictures import LARGEST_SIDE, grey_limits, percent, reduced
from carde_monai.result_files import AGAIN, FOREIGN, NAMES, read_labels, read_table
from carde_monai.sem_files import CHANNELS
from carde_monai.sem_pixels import open_picture

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

WIDE = 1024  # pixels: a larger micrograph is shown reduced, where an outline of one pixel is lost
MOST_ROWS = 1_000_000  # of a table: numbers of carbides may be as large as 32 bits hold
LISTED = 20  # micrographs that a message names


@dataclass(frozen=True)
class LayerData:
    """A layer of napari: ``viewer.add_<kind>(data, **options)``, and attributes to set afterwards."""

    kind: str
    data: Array
    options: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)


class Results:
    """A folder that ``segment`` or ``measure`` wrote, with the folder of its micrographs if that is given.

    Args:
        folder: holds micrographs.csv, particles.csv and what was written of each micrograph.
        images: folder of the micrographs, raw or prepared.
        detectors: 2 for SE2/InLens pairs in ``images``; 1 for single images.

    Raises:
        InputError: a folder or micrographs.csv does not exist, is damaged or of another kind.
    """

    def __init__(self, folder: Path, images: Path | None = None, detectors: int = 2) -> None:
        if not folder.is_dir():
            raise InputError(folder, "is a file" if folder.exists() else "no such folder", FOREIGN)
        path = folder / "micrographs.csv"
        table = read_table(path)
        if not len(table):
            raise InputError(path, "holds no micrograph", AGAIN)
        for column in ("micrograph", "pixel_size_um", "carbides", "area_fraction"):
            if column not in table or (column not in NAMES and not is_numeric_dtype(table[column])):
                raise InputError(path, f"has no column {column} or no numbers in it", FOREIGN)
        self.folder, self.images_folder = folder, images
        self.table = table.drop_duplicates("micrograph").set_index("micrograph")
        self.names = list(self.table.index)
        self.images: dict[str, Any] = {}
        if images is not None:
            from carde_monai.masks import find_images  # takes seconds

            self.images = find_images(images, detectors)

    @cached_property
    def particles(self) -> dict[Any, pd.DataFrame]:
        """The rows of particles.csv by micrograph. Raises InputError if it is missing or damaged."""
        path = self.folder / "particles.csv"
        table = read_table(path)
        for column in ("micrograph", "label"):
            if column not in table:
                raise InputError(path, f"has no column {column}", FOREIGN)
        if len(table) and not is_integer_dtype(table["label"]):
            raise InputError(path, "not every label is a whole number", AGAIN)
        return dict(iter(table.groupby("micrograph")))

    def choose(self, micrograph: str | None) -> str:
        """The name of a micrograph: the one asked for, else the first. InputError if there is none such."""
        if micrograph is None:
            return self.names[0]
        if micrograph not in self.names:
            more = f" and {len(self.names) - LISTED} more" if len(self.names) > LISTED else ""
            known = f"it holds {', '.join(self.names[:LISTED])}{more}"
            raise InputError("--micrograph", f"{self.folder} holds no {micrograph}", known)
        return micrograph

    def pixel_size(self, name: str) -> float | None:
        """Micrometres per pixel of a micrograph, None if unknown."""
        size = float(self.table.at[name, "pixel_size_um"])
        return size if math.isfinite(size) and size > 0 else None

    def facts(self, name: str) -> str:
        """What was measured of a micrograph, in a few lines."""
        size, row = self.pixel_size(name), self.table.loc[name]
        pixel = f"{1000 * size:.4g} nm a pixel" if size else "pixel size unknown: lengths in pixels"
        return f"{row['carbides']:g} carbides\n{percent(row['area_fraction'])} of the area\n{pixel}"

    def read(self, name: str) -> tuple[list[LayerData], list[str]]:
        """The layers of a micrograph, lowest first, and a line on each file that cannot be shown.

        Greys of the detectors (else the overlay), probability, numbered carbides: those that there are.
        """
        complaints: list[str] = []

        def attempt(read: Callable[..., Any], *args: Any) -> Any:
            try:
                return read(*args)
            except (InputError, OSError) as error:
                complaints.append(str(user_mistake(error) or error))
                return None

        labels = attempt(read_labels, self.folder / f"{name}_labels.tif")
        shape = None if labels is None else labels.shape
        layers = attempt(self._greys, name, shape) or attempt(self._overlay, name, shape) or []
        layers += attempt(self._probability, name, shape) or []
        if labels is not None:
            features = attempt(self._features, name, labels)
            options = self._place(name, "carbides") | ({} if features is None else {"features": features})
            # outlines, so that the greys of the carbides stay visible
            look = {"contour": 2 if max(labels.shape) > WIDE else 1, "opacity": 1.0}
            layers.append(LayerData("labels", labels, options, look))
        return layers, complaints

    def _place(self, name: str, title: str, zoom: float = 1.0) -> dict[str, Any]:
        """Name and scale of a layer of which a pixel is ``zoom`` pixels of the micrograph."""
        size = self.pixel_size(name)
        pitch, shift = zoom * (size or 1.0), (zoom - 1) / 2 * (size or 1.0)
        options: dict[str, Any] = {"name": title, "scale": (pitch, pitch)}
        if size:
            options["units"] = ("um", "um")
        if shift:  # napari's coordinates are those of the pixels' centres
            options["translate"] = (shift, shift)
        return options

    def _greys(self, name: str, shape: Shape | None) -> list[LayerData]:
        """The images of the detectors, of which only the first is visible at first."""
        if self.images_folder is None:
            return []
        if name not in self.images:
            raise InputError(self.images_folder, f"holds no micrograph {name}", "shown without its greys")
        from carde_monai.masks import read_image

        micrograph = self.images[name]
        planes = read_image(micrograph, None)[0]
        _check_shape(micrograph.paths[0], planes.shape[1:], shape)
        alone = len(planes) == 1 or np.array_equal(planes[0], planes[1])  # one detector fills both channels
        layers = []
        for title, plane in zip(["image"] if alone else CHANNELS, planes, strict=False):
            options = self._place(name, title) | {"colormap": "gray", "visible": not layers}
            limits = grey_limits(plane)
            uneven = limits is not None and limits[0] < limits[1]
            # set afterwards, so that the slider reaches all greys
            layers.append(LayerData("image", plane, options, {"contrast_limits": limits} if uneven else {}))
        return layers

    def _overlay(self, name: str, shape: Shape | None) -> list[LayerData]:
        """The picture that `segment` draws, without the strip below it."""
        path = self.folder / f"{name}_overlay.png"
        if shape is None or not path.is_file():
            return []
        width, height = reduced((shape[1], shape[0]), LARGEST_SIDE, LARGEST_SIDE)
        colours = _picture(path, "RGB")[:height, :width]
        _check_shape(path, colours.shape[:2], (height, width))
        return [LayerData("image", colours, self._place(name, "overlay", shape[1] / width))]

    def _probability(self, name: str, shape: Shape | None) -> list[LayerData]:
        path = self.folder / f"{name}_probability.tif"
        if not path.is_file():
            return []
        probability = _picture(path, "F")
        _check_shape(path, probability.shape, shape)
        how = {"colormap": "inferno", "contrast_limits": (0, 1), "blending": "additive", "visible": False}
        return [LayerData("image", probability, self._place(name, "probability") | how)]

    def _features(self, name: str, labels: Array) -> pd.DataFrame | None:
        """The carbides' rows of particles.csv as napari wants them; None if there is no carbide.

        The column ``index`` is the number in the image, and row i is number i: napari's table selects by row.
        """
        rows = self.particles.get(name)
        if rows is None:
            return None
        known = rows.drop(columns=[*NAMES], errors="ignore").dropna(axis="columns", how="all")
        known = known.rename(columns={"label": "index"}).drop_duplicates("index").set_index("index")
        last = int(max(labels.max(initial=0), known.index.max()))
        if last >= MOST_ROWS:
            wrong = f"numbers the carbides of {name} up to {last}, too many for napari's table"
            raise InputError(self.folder / "particles.csv", wrong, "they are shown without it")
        table = known.reindex(range(last + 1))
        for column in known:
            if is_bool_dtype(known[column]):  # the matrix, row 0, is neither counted nor at the border
                table[column] = table[column].eq(True)
        return table.rename_axis("index").reset_index()


def _picture(path: Path, mode: str) -> Array:
    """Pixels of a picture that `segment` wrote, in a mode of Pillow's. Raises InputError if it is damaged."""
    try:
        with open_picture(path) as picture:
            return np.asarray(picture.convert(mode))
    except InputError:
        raise
    except Exception as error:  # decoders raise whatever a broken file makes them stumble over
        raise InputError(path, f"cannot be read ({error})", "segment again") from error


def _check_shape(path: Path, found: Shape, wanted: Shape | None) -> None:
    """Raise InputError if a picture has another size than the image of the carbides."""
    if wanted is not None and tuple(found) != tuple(wanted):
        sizes = " but the carbides' image has ".join(f"{w} x {h} px" for h, w in (found[:2], wanted))
        raise InputError(path, sizes, "give the files of one measurement")
