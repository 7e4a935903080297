"""Dice of a bundle's network at many pixel sizes, with and without the overlay `spacing`.

Synthetic steels that no training of the shipped weights has seen, at each pixel size twice: drawn anew, sharp
in its own pixels, and one frame of 7 nm, resampled with its label, so that the scene stays.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from skimage.transform import resize

import carde_monai
from carde_monai.bundles import packaged_bundle
from carde_monai.evaluation import scores
from carde_monai.synthetic import STEELS, Synthetic, synthesize_micrograph

REFERENCE = 0.007  # um a pixel; the frame that is resampled
REFERENCE_SIDE = 512  # pixels
SIZES = (0.0015, 0.003, 0.0045, 0.006, 0.014, 0.02, 0.03, 0.04)  # um a pixel
RESAMPLED = (0.003, 0.02)  # further away too many pixels, or too few
WIDTH = REFERENCE * REFERENCE_SIDE  # um, of drawn frames, too, as far as their pixels allow
SIDES = (160, 768)  # pixels
FIRST_SEED = 900  # those of train_shipped_weights and of the tests are others
MODES = {"as it is": None, "spacing": "spacing"}


def drawn(steel: str, pixel_size: float, seed: int) -> Synthetic:
    """A square frame of a steel at a pixel size in micrometres."""
    side = int(np.clip(WIDTH / pixel_size, *SIDES)) // 16 * 16
    return synthesize_micrograph(replace(STEELS[steel], pixel_size_um=pixel_size), (side, side), seed)


def resampled(frame: Synthetic, pixel_size: float) -> Synthetic:
    """The same scene in other pixels: linear, after a smoothing if they are coarser."""
    factor = frame.pixel_size_um / pixel_size
    shape = [round(length * factor) for length in frame.label.shape]

    def other(image: np.ndarray) -> np.ndarray:
        return resize(image.astype(float), shape, order=1, anti_aliasing=factor < 1)

    greys = {kind: np.rint(other(getattr(frame, kind))).astype(np.uint8) for kind in ("se2", "inlens")}
    label = (other(frame.label) > 0.5).astype(np.uint8)
    return replace(frame, **greys, label=label, pixel_size_um=pixel_size)


def frames(seeds: int) -> Iterator[tuple[str, Synthetic]]:
    """Frames with how each was made, of every steel, size and seed."""
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for steel in STEELS:
            reference = drawn(steel, REFERENCE, seed)
            yield "drawn", reference
            for size in SIZES:
                yield "drawn", drawn(steel, size, seed)
                if RESAMPLED[0] <= size <= RESAMPLED[1]:
                    yield "resampled", resampled(reference, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="frames of each kind and steel")
    parser.add_argument("--bundle", type=Path, help="of the network; the packaged one if not given")
    options = parser.parse_args()
    # without a name the packaged bundle has the overlay anyway
    bundle = options.bundle or packaged_bundle()
    every, rows = list(frames(options.seeds)), []
    for mode, overlay in MODES.items():  # outermost: a network is loaded once
        for kind, frame in every:
            size = frame.pixel_size_um
            found = carde_monai.segment(frame.se2, frame.inlens, bundle, size, overlay=overlay)
            dice = scores(found.mask, frame.label)["dice"]
            rows.append({"frames": kind, "nm a pixel": 1000 * size, "mode": mode, "dice": dice})
    grouped = pd.DataFrame(rows).groupby(["frames", "nm a pixel", "mode"])["dice"]
    quartiles = grouped.quantile([0.25, 0.5, 0.75]).unstack()
    shown = quartiles.apply(lambda row: "{:.3f} ({:.3f}, {:.3f})".format(*row[[0.5, 0.25, 0.75]]), axis=1)
    print(f"Median Dice (quartiles) of {options.seeds * len(STEELS)} frames each")
    print(shown.unstack()[list(MODES)].to_string())


if __name__ == "__main__":
    main()
