"""Do generated crops look like real micrographs? Figures of both side by side, and a contact sheet.

Real ones are the development data beside the project; Ni-superalloys are inverted, as their precipitates
are darker than the matrix. Noise is the spread of a pixel about its 5 x 5 median in the matrix; greys are
given in widths between the quartiles, as the network gets them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from carde_monai.synthetic_dataset import RandMicrographCrops

SIDE = 256
OCTAVES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)  # cycles a pixel, lower ends
Pair = tuple[np.ndarray, np.ndarray]


def figures(image: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Greys, noise, contrast of the labelled bodies and spectrum of an image (H, W)."""
    quarter, middle, upper = np.percentile(image, [25, 50, 75])
    width = max(upper - quarter, 1.0)
    away = ndimage.distance_transform_edt(~label) if label.any() else np.full(label.shape, 9.0)
    matrix = away > 3
    residual = image - ndimage.median_filter(image, 5)
    noise = max(1.4826 * float(np.median(np.abs(residual[matrix]))), 0.3) if matrix.any() else np.nan
    around = (away > 3) & (away < 12)
    contrast = image[label].mean() - image[around].mean() if label.any() and around.any() else np.nan
    side = min(image.shape)
    window = np.hanning(side)
    power = np.abs(np.fft.fft2((image - image.mean())[:side, :side] * window[:, None] * window)) ** 2
    rate = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    octaves = np.log10([power[(rate >= low) & (rate < 2 * low)].mean() for low in OCTAVES])
    darkest, brightest = (np.percentile(image, [1, 99]) - middle) / width
    facts = {"median": middle, "quartile width": width, "1 %": darkest, "99 %": brightest, "noise": noise}
    facts |= {
        "contrast/noise": contrast / noise,
        "contrast/width": contrast / width,
        "area %": 100 * label.mean(),
    }
    return facts | {
        f"power 1/{round(1 / low)}": drop
        for low, drop in zip(OCTAVES[1:], octaves[1:] - octaves[0], strict=True)
    }


def real(data: Path) -> Iterator[tuple[str, list[Pair]]]:
    """Groups of real images with their labels."""

    def read(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path).convert("L")).astype(float)

    tiles = sorted((data / "rpv-examples").glob("tile*_label.png"))
    for detector in ("se2", "inlens"):
        named = [(path, path.with_name(path.name.replace("label", detector))) for path in tiles]
        # the first 20 rows of a tile may hold a burnt-in scale bar
        yield f"rpv {detector}", [(read(image)[20:], read(label)[20:] > 0) for label, image in named]
    for name, folder, chosen in (
        ("ni inverted", "ni-superalloy/train", (1, 2)),
        ("uhcs network", "uhcs", (1,)),
    ):
        pairs = []
        for path in sorted((data / folder / "images").glob("*.png")):
            image = 255 - read(path) if name.startswith("ni") else read(path)
            label = np.isin(np.asarray(Image.open(path.parents[1] / "labels" / path.name)), chosen)
            for row, column in ((0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE)):
                part = slice(row, row + SIDE), slice(column, column + SIDE)
                pairs.append((image[part], label[part]))
        yield name, pairs


def generated(count: int, seed: int) -> list[Pair]:
    """One detector of each of so many crops, one a scene."""
    transform = RandMicrographCrops((SIDE, SIDE), crops=1)
    crops = (transform.set_random_state(seed=seed + number)(None)[0] for number in range(count))
    return [
        (one["image"][n % 2].double().numpy(), one["label"][0].numpy() > 0) for n, one in enumerate(crops)
    ]


def shown(image: np.ndarray) -> np.ndarray:
    """As the network gets it, two quartile widths below the median black and four above it white."""
    quarter, middle, upper = np.percentile(image, [25, 50, 75])
    grey = ((image - middle) / max(upper - quarter, 1.0) + 2) / 6 * 255
    return np.asarray(Image.fromarray(grey.clip(0, 255).astype(np.uint8)).resize((SIDE, SIDE)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--count", type=int, default=200, help="generated crops")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, default=Path("generator.png"))
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data}: no such folder; give the real micrographs with --data")
    groups = [*real(options.data), ("generated", generated(options.count, options.seed))]
    print("median (5 %, 95 %) of each")
    for name, pairs in groups:
        facts = [figures(*pair) for pair in pairs]
        print(f"\n{name}, {len(pairs)} images")
        for key in facts[0]:
            low, middle, high = np.nanpercentile([one[key] for one in facts], [5, 50, 95])
            print(f"  {key:16}{middle:8.2f}  ({low:.2f}, {high:.2f})")
    tiles = [shown(image) for _, pairs in groups[:-1] for image, _ in pairs[:: max(1, len(pairs) // 4)][:3]]
    tiles = [*tiles[:12], *(shown(image) for image, _ in groups[-1][1][: 36 - min(12, len(tiles))])]
    tiles += [np.full((SIDE, SIDE), 255, np.uint8)] * (-len(tiles) % 6)
    rows = [np.concatenate(tiles[start : start + 6], 1) for start in range(0, len(tiles), 6)]
    Image.fromarray(np.concatenate(rows)).save(options.sheet)


if __name__ == "__main__":
    main()
