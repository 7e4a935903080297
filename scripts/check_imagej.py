"""What `check_imagej` does in Python: masks that are hard to outline; ImageJ's figures compared with ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tifffile
from PIL import Image

from carde_monai.result_files import read_table

CLOSE = 2e-5  # relative: the tables hold six digits
COLUMNS = {  # ImageJ's and ours; a region's pixels on the image of numbers have just its own
    **{"area": "area_um2", "mean": "label", "min": "label", "max": "label"},
    **{"x": "centroid_x_um", "y": "centroid_y_um"},
}
UNITS = ("micron", "microns", "um", "µm")


def main(arguments: list[str]) -> int:
    """``masks FOLDER`` writes masks; ``results FOLDER...`` compares, and returns 1 if something differs."""
    what, *folders = arguments
    if what == "masks":
        write_masks(Path(folders[0]))
        return 0
    wrong = [line for folder in folders for line in compare(Path(folder))]
    for line in wrong[:20]:
        print(line, file=sys.stderr)
    print(f"{len(wrong)} differences" if wrong else "ImageJ reads and measures what we wrote")
    return int(bool(wrong))


def write_masks(folder: Path) -> None:
    """Noise, whose components touch at corners and lie in each other's holes; carbides of several parts, with
    numbers that are missing; more carbides than 16 bits count."""
    folder.mkdir()
    noise = np.random.default_rng(0).random((96, 128)) < 0.45
    Image.fromarray(noise.view(np.uint8) * np.uint8(255)).save(folder / "noise_mask.png")
    parts = np.zeros((40, 60), np.uint16)
    parts[0:3, 0:3] = parts[37:, 57:] = 2  # in two corners
    parts[5:30, 5:30] = 7
    parts[8:27, 8:27] = 0
    parts[10:25, 10:25] = 9  # in the hole of 7
    parts[15, 15:20] = 0
    parts[20, 33:59:2] = parts[21, 34:60:2] = 300  # a zigzag of corners
    tifffile.imwrite(folder / "parts_labels.tif", parts)
    many = np.zeros((3 * 260, 4 * 260), np.uint8)
    many.reshape(260, 3, 260, 4)[:, :2, :, :3] = 255
    Image.fromarray(many).save(folder / "many_mask.png")


def compare(folder: Path) -> list[str]:
    """What ImageJ read or measured otherwise than it was written; prints a line an image."""
    images = pd.read_csv(folder / "images.csv")
    fields = read_table(folder / "micrographs.csv").set_index("micrograph")
    particles = read_table(folder / "particles.csv")
    wrong = []
    for row in images.itertuples():
        name, kind = row.file.rsplit("_", 1)
        size = float(fields.pixel_size_um[name])
        found = image_differences(row, pixels(folder / row.file), size)
        line = f"ImageJ {row.imagej}: {row.file}: {row.width} x {row.height} px, {row.bits} bit"
        if kind == "labels.tif":
            expected = particles[particles.micrograph == name].set_index("label", drop=False)
            found += region_differences(folder / f"{name}_regions.csv", expected, size)
            line += f", {len(expected)} regions"
        print(f"{line}; pixel {row.pixel_width:.9g} {row.unit}, shown from {row.low:g} to {row.high:g}")
        wrong += [f"{folder.name}/{row.file}: {one}" for one in found]
    missing = {f"{name}_labels.tif" for name in fields.index} - set(images.file)
    return wrong + [f"{folder.name}/{one}: was not opened" for one in sorted(missing)]


def pixels(path: Path) -> npt.NDArray[Any]:
    """The image as Python reads it."""
    return np.asarray(Image.open(path)) if path.suffix == ".png" else tifffile.imread(path)


def image_differences(row: Any, ours: npt.NDArray[Any], pixel_size_um: float) -> list[str]:
    """In size, depth, greys, unit and pixel size; a PNG has none of the last two."""
    png = row.file.endswith(".png")
    size = 1.0 if png else pixel_size_um
    checks = {
        "size": (row.height, row.width) == ours.shape,
        "bits": row.bits == 8 * ours.itemsize,
        "unit": row.unit in (("pixel", "pixels") if png else UNITS),
        "pixel size": np.allclose([row.pixel_width, row.pixel_height], size, rtol=1e-6, atol=0),
        "greys": np.allclose([row.mean, row.max], [ours.mean(dtype=float), ours.max()], rtol=1e-6),
        "display range": row.low == 0 and row.high == (1 if ours.dtype == np.float32 else ours.max()),
    }
    return [f"{what} differs: {row}" for what, good in checks.items() if not good]


def region_differences(path: Path, expected: pd.DataFrame, pixel_size_um: float) -> list[str]:
    """In number, and of each region in area, in the numbers below it, and in the centroid."""
    if not path.is_file():
        return [f"none of {len(expected)} regions was measured"] if len(expected) else []
    regions = pd.read_csv(path, index_col="name")
    if list(regions.index) != list(expected.index):
        return [f"{len(regions)} regions for {len(expected)} carbides, or other names"]
    ours = expected[list(COLUMNS.values())].to_numpy(float)
    ours[:, 4:] += pixel_size_um / 2  # (0, 0) is the first pixel's centre with us, its corner in ImageJ
    theirs = regions[list(COLUMNS)].to_numpy(float)
    return [
        f"region {regions.index[row]}: {list(COLUMNS)[column]} {theirs[row, column]}, not {ours[row, column]}"
        for row, column in np.argwhere(~np.isclose(theirs, ours, rtol=CLOSE, atol=0))
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
