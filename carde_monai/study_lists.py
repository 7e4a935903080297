"""The data sets of a study: lists of the prepared micrographs, dealt out by micrograph, and tiles of them."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from monai.utils import convert_to_numpy
from tqdm import tqdm

from carde_monai import bundles, datalist
from carde_monai.errors import InputError
from carde_monai.handlers.segmentation import pixel_size_um
from carde_monai.nifti import write_nifti
from carde_monai.replacing import replace_text

SIZES = (1, 2, 4, 10)  # annotated micrographs of the learning curve
SPLIT = "80,10,10"  # of the published tiles
Item = dict[str, Any]


@dataclass(frozen=True)
class CurvePoint:
    """One training of the learning curve: its data set and the names of the micrographs trained on."""

    seed: int
    names: tuple[str, ...]
    data: Path


def annotated(data: Path) -> tuple[list[Item], list[Item]]:
    """Items of the annotated micrographs of a prepared data set: those of split or folds, and hold-out."""
    parts = datalist.read(data)
    items = [item for section in datalist.SPLIT for item in parts[section]]
    pool = [{key: item[key] for key in ("image", "label", "name")} for item in items]
    return sorted(pool, key=lambda item: item["name"]), parts["holdout"]


def write_list(folder: Path, sections: Mapping[str, Sequence[Item]], data: Path | None = None) -> Path:
    """Write ``folder/datalist.json``; the items' paths are relative to ``data``, or to the folder itself."""
    folder.mkdir(parents=True, exist_ok=True)
    way = os.path.relpath(data, folder).replace(os.sep, "/") if data else ""
    content: dict[str, Any] = {"name": folder.name, "labels": {"0": "matrix", "1": "carbide"}}
    for section, items in sections.items():
        paths = [
            {key: f"{way}/{item[key]}" if way else item[key] for key in ("image", "label")} for item in items
        ]
        content[section] = [item | path for item, path in zip(items, paths, strict=True)]
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    replace_text(folder / datalist.FILE, text)
    return folder


def write_folds(data: Path, folder: Path, k: int, seed: int) -> Path:
    """A list of all annotated micrographs in ``k`` folds, and the hold-out; as many folds as micrographs are
    leave-one-out. Raises InputError for fewer than 3 folds or micrographs."""
    pool, holdout = annotated(data)
    folds = datalist.assign_folds([item["name"] for item in pool], k, seed)
    items = [{**item, "fold": folds[item["name"]]} for item in pool]
    return write_list(folder, {"training": items, "holdout": holdout}, data)


def write_curve(data: Path, folder: Path, seeds: int, only_ends: bool = False) -> list[CurvePoint]:
    """Lists that train on 1, 2, 4, 10 micrographs, as many as one each for validation and test leave.

    A seed draws the order of the micrographs: the first is for testing, the second for validation, and
    the trainings take the first of the rest, so that the larger set holds the smaller. ``only_ends`` leaves
    out the sizes between. Raises InputError for fewer than three micrographs.
    """
    pool, holdout = annotated(data)
    most = min(len(pool) - 2, max(SIZES))
    if most < 1:
        raise InputError(data, f"{len(pool)} annotated micrographs are too few", "annotate at least three")
    sizes = sorted({size for size in SIZES if size <= most} | {most})
    points = []
    for seed in range(seeds):
        order = random.Random(seed).sample(pool, len(pool))
        for size in sizes[:: max(1, len(sizes) - 1)] if only_ends else sizes:
            chosen = order[2 : 2 + size]
            sections = {"training": chosen, "validation": order[1:2], "test": order[:1], "holdout": holdout}
            names = tuple(item["name"] for item in chosen)
            place = write_list(folder / f"seed{seed}_n{size}", sections, data)
            points.append(CurvePoint(seed, names, place))
    return points


def tile_name(frame: str, row: int, column: int) -> str:
    """Name of a tile: of its micrograph, and its row and column in the grid of tiles."""
    return f"{frame}_r{row:02d}c{column:02d}"


def tile_place(name: str) -> tuple[str, int, int]:
    """Micrograph, row and column of a tile by its name."""
    frame, _, place = name.rpartition("_r")
    row, column = place.split("c")
    return frame, int(row), int(column)


def write_tiles(
    data: Path, folder: Path, bundle: Path, configs: Sequence[str], tile: int = 128, seed: int = 0
) -> Path:
    """Cut the annotated micrographs into full, non-overlapping tiles and split those 80/10/10 at random.

    The tiles are a prepared data set of their own: their float32 greys are those of the frame after the
    bundle's normalisation, for a tile's own quartiles depend on how much carbide it happens to hold.
    ``configs`` are ``train`` and overlays. Rows and columns that fill no tile are left out, as in the
    publication. Raises InputError for frames smaller than a tile.
    """
    parser = ConfigParser()
    parser.read_config(bundles.config_files(bundle, configs))
    transform = parser.get_parsed_content("validate#preprocessing")
    pool, _ = annotated(data)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    items = []
    for item in tqdm(pool, desc="tiles", unit="micrograph", disable=None):
        frame = transform({key: str(data / item[key]) for key in ("image", "label")})
        image, label = (convert_to_numpy(frame[key]) for key in ("image", "label"))
        for row, column in np.ndindex(label.shape[1] // tile, label.shape[2] // tile):
            window = np.s_[:, row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
            name = tile_name(item["name"], row, column)
            paths = {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"}
            greys = image[window].transpose(1, 2, 0)[:, :, None, None, :].astype(np.float32)
            size = pixel_size_um(frame["image"])
            write_nifti(greys, folder / paths["image"], size)
            write_nifti(label[window][0, ..., None].astype(np.uint8), folder / paths["label"], size)
            items.append({**paths, "name": name})
    if len(items) < 3:
        raise InputError(data, f"gives {len(items)} tiles of {tile} px", "choose a smaller --tile")
    parts = datalist.split([item["name"] for item in items], SPLIT, seed)
    of = {item["name"]: item for item in items}
    return write_list(folder, {section: [of[name] for name in names] for section, names in parts.items()})


def leak(tiles: Path) -> dict[str, int]:
    """How far test tiles are from being new to the network.

    The number of tiles in each section, of those in test that are of a micrograph with tiles in training, and
    of those that touch a training tile by side or corner.
    """
    parts = {
        section: {tile_place(item["name"]) for item in items}
        for section, items in datalist.read(tiles).items()
        if section in datalist.SPLIT
    }
    frames = {frame for frame, _, _ in parts["training"]}
    around = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    touching = sum(
        any((frame, row + i, column + j) in parts["training"] for i, j in around)
        for frame, row, column in parts["test"]
    )
    known = sum(frame in frames for frame, _, _ in parts["test"])
    return {
        **{section: len(places) for section, places in parts.items()},
        "test_of_training_micrographs": known,
        "test_touching_training": touching,
    }
