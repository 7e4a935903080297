"""What a bundle's network finds in real micrographs that it never saw: figures and pictures.

The real ones are the development data beside the project: tiles of reactor-pressure-vessel steel with both
detectors, with one of them, and with pixels twice as large; Ni-superalloys, inverted, as their precipitates
are darker than the matrix (several images, one detector). A picture has the greys of each detector, the
label and the probability side by side.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from skimage.transform import downscale_local_mean

import carde_monai

SCALE = 3  # of the small tiles' pictures


class Case(NamedTuple):
    """A micrograph: (H, W) greys of the detectors, InLens or None, and the label's numbers or None."""

    name: str
    se2: np.ndarray
    inlens: np.ndarray | None
    label: np.ndarray | None


def _grey(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"))


def _coarser(image: np.ndarray) -> np.ndarray:
    return np.rint(downscale_local_mean(image, (2, 2))).astype(np.uint8)


def cases(data: Path) -> Iterator[Case]:
    """The micrographs below ``data``."""
    for path in sorted((data / "rpv-examples").glob("tile*_label.png")):
        se2, inlens = (_grey(path.with_name(path.name.replace("label", kind))) for kind in ("se2", "inlens"))
        label, name = (_grey(path) > 0).astype(np.uint8), path.name.split("_")[0]
        yield Case(f"{name}, both detectors", se2, inlens, label)
        yield Case(f"{name}, SE2 alone", se2, None, label)
        yield Case(f"{name}, InLens alone", inlens, None, label)
        coarse = (_coarser(255 * label) > 127).astype(np.uint8)
        yield Case(f"{name}, pixels twice as large", _coarser(se2), _coarser(inlens), coarse)
    frames = [data / "rpv-examples" / f"frame_{kind}_small.png" for kind in ("se2", "inlens")]
    if frames[0].is_file():
        # reduced whole frames, 165 rows, of which the information bar takes the last 17
        yield Case("reduced frame", _grey(frames[0])[:148], _grey(frames[1])[:148], None)
    for part in ("val", "other"):
        for path in sorted((data / "ni-superalloy" / part / "images").glob("*.png")):
            label = np.asarray(Image.open(path.parents[1] / "labels" / path.name))
            yield Case(f"ni {part}, {path.stem}, inverted", 255 - _grey(path), None, label)


def described(label: np.ndarray, mask: np.ndarray) -> str:
    """Dice and IoU of all classes together, and the share of each class that is found."""
    found, true = mask > 0, label > 0
    both, every = (found & true).sum(), (found | true).sum()
    dice = 2 * both / (found.sum() + true.sum()) if every else 1.0
    classes = [label == number for number in np.unique(label) if number]
    recalls = ", ".join(f"{(found & one).sum() / one.sum():.2f}" for one in classes)
    return f"Dice {dice:.3f}, IoU {both / every if every else 1:.3f}, recall by class {recalls}"


def picture(case: Case, probability: np.ndarray) -> Image.Image:
    """Detectors, label and probability side by side."""
    label = np.zeros_like(case.se2) if case.label is None else case.label * (255 // max(1, case.label.max()))
    shown = [case.se2, *([] if case.inlens is None else [case.inlens]), label, 255 * probability]
    row = np.concatenate([np.rint(one).astype(np.uint8) for one in shown], 1)
    scale = SCALE if max(case.se2.shape) < 300 else 1
    return Image.fromarray(row).resize((row.shape[1] * scale, row.shape[0] * scale), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--bundle", type=Path, help="of the network; the packaged one if not given")
    parser.add_argument("--out", type=Path, default=Path("look"))
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data}: no such folder; give the real micrographs with --data")
    options.out.mkdir(parents=True, exist_ok=True)
    for case in cases(options.data):
        found = carde_monai.segment(case.se2, case.inlens, options.bundle)
        told = f"{100 * (found.mask > 0).mean():.1f} % found"
        if case.label is not None:
            told = f"{described(case.label, found.mask)}, {told} of {100 * (case.label > 0).mean():.1f} %"
        print(f"{case.name}: {told}", flush=True)
        picture(case, found.probability).save(
            options.out / f"{case.name.replace(', ', '_').replace(' ', '_')}.png"
        )


if __name__ == "__main__":
    main()
