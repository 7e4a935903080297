"""The classical segmentation of every annotated micrograph: on the whole frame and its raw greys."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from carde_monai.baseline import segment
from carde_monai.error_picture import dice
from carde_monai.evaluation import tile_dice
from carde_monai.pictures import Array, save_png
from carde_monai.replacing import replace_file, replace_text
from carde_monai.study_lists import annotated, tile_name


def read_frame(data: Path, item: dict[str, str]) -> tuple[Array, Array]:
    """Raw greys (C, H, W) and label (H, W), 0 or 1, of an item of a prepared data set."""
    image = np.asarray(nib.Nifti1Image.from_filename(data / item["image"]).dataobj)
    label = np.asarray(nib.Nifti1Image.from_filename(data / item["label"]).dataobj)
    return np.moveaxis(image[:, :, 0, 0, :], -1, 0), label[..., 0]


def cut(array: Array, row: int, column: int, tile: int) -> Array:
    """The tile of (..., H, W) at a place of the grid."""
    return array[..., row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]


def with_filled(tiles: pd.DataFrame, data: Path, tile: int) -> pd.DataFrame:
    """The table of tiles (columns name, row, column) with ``filled``: has the label carbides there?"""
    items = {item["name"]: item for item in annotated(data)[0]}
    labels = {name: read_frame(data, items[name])[1] for name in set(tiles["name"])}
    places = zip(tiles["name"], tiles["row"], tiles["column"], strict=True)
    filled = [bool(cut(labels[name], row, column, tile).any()) for name, row, column in places]
    return tiles.assign(filled=filled)


def score_baseline(data: Path, folder: Path, tile: int) -> None:
    """Write ``masks/<name>_baseline.png``, ``metrics.csv`` (rows: micrographs) and ``tiles.csv`` (tiles).

    Tiles are cut from the mask of the frame. ``tiles.csv``: tile (its name), baseline (Dice).
    """
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    frames, tiles = [], []
    pool, holdout = annotated(data)
    for item in tqdm([*pool, *holdout], desc="baseline", unit="micrograph", disable=None):
        image, label = read_frame(data, item)
        mask = segment(image[0], image[-1])
        picture = Image.fromarray(mask * np.uint8(255))
        path = folder / "masks" / f"{item['name']}_baseline.png"
        replace_file(path, partial(save_png, picture))
        frames.append({"name": item["name"], "baseline": dice(mask > 0, label > 0)})
        grid = tile_dice(mask, label, tile)
        tiles += [
            {"tile": tile_name(item["name"], *place), "baseline": grid[place]}
            for place in np.ndindex(grid.shape)
        ]
    table = pd.DataFrame(tiles, columns=["tile", "baseline"])
    for name, one in (("metrics.csv", pd.DataFrame(frames)), ("tiles.csv", table)):
        replace_text(folder / name, one.to_csv(index=False, float_format="%.6g"))


def tile_table(folder: Path) -> dict[str, float]:
    """The baseline's Dice of each tile by the tile's name, as `score_baseline` wrote it."""
    table = pd.read_csv(folder / "tiles.csv")
    return dict(zip(table["tile"], table["baseline"], strict=True))
