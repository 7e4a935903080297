"""A look at a random scene: its image and label; and whole random micrographs with their truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from carde_monai.synthetic import TRUTH_COLUMNS, Synthetic
from carde_monai.synthetic_maps import Scene, draw_scene
from carde_monai.synthetic_paint import label_of, paint
from carde_monai.synthetic_random import PIXEL_SIZES_UM, Look, RandomSteel, random_look, random_steel
from carde_monai.synthetic_scan import (
    MARGIN,
    burn_in,
    charge,
    detect,
    focus,
    inner,
    row_shifts,
    shift_rows,
    spoil,
)
from carde_monai.synthetic_view import INLENS


class Seen(NamedTuple):
    """Image (2, H, W) of whole numbers from 0 to 255, label (1, H, W), both float32; body (H, W)."""

    image: np.ndarray
    label: np.ndarray
    body: np.ndarray  # entry of the scene's arrays, or -1


def look_at(rng: np.random.Generator, scene: Scene, steel: RandomSteel, look: Look) -> Seen:
    """What is seen of a scene without its outermost ``MARGIN`` pixels; ``steel`` gives the greys.

    With one detector both channels are the same image.
    """
    gain = rng.uniform(*steel.gain) * rng.uniform(0.92, 1.08, 2)
    base = rng.uniform(*steel.matrix_grey) + rng.normal(0, 6, 2)
    frames, detectors = paint(rng, scene, steel, look), [0, 1]
    if look.detectors == 1:
        weight = np.array([1 - look.mix, look.mix])
        frames, detectors = (
            np.tensordot((weight * gain).astype(np.float32), frames, 1)[None],
            [round(look.mix)],
        )
    else:
        frames *= gain.astype(np.float32)[:, None, None]
    charge(rng, frames, scene.depth > 0, look)
    frames = focus(rng, frames, steel, look)
    spoil(rng, frames, look)
    label, body = label_of(rng, scene, steel, look), scene.body
    shift = row_shifts(rng, scene.size[0], look)
    if shift is not None:
        frames = np.stack([shift_rows(frame, shift) for frame in frames])
        label = shift_rows(label.astype(np.int8), shift).astype(np.float32)
        body = shift_rows(body, shift)
    frames = inner(frames) + base[detectors, None, None].astype(np.float32)
    at_top = rng.random() < 0.1 and look.detectors == 2
    image = [
        detect(rng, frame, detector, steel, look, glow=at_top and detector == INLENS)
        for detector, frame in zip(detectors, frames, strict=True)
    ]
    burn_in(rng, image, look)
    return Seen(np.stack(image * (2 // len(image))), np.ascontiguousarray(inner(label))[None], inner(body))


def random_micrograph(
    size: tuple[int, int],
    seed: int | np.random.SeedSequence,
    pixel_size_um: tuple[float, float] = PIXEL_SIZES_UM,
) -> Synthetic:
    """A micrograph of ``size`` (rows, columns) of a random steel; the same for the same arguments.

    Places in the table of carbides are centres of their labels; films and the large bodies of a crowd have
    neither aspect ratio nor angle.
    """
    rng = np.random.default_rng(seed)
    steel = random_steel(rng, pixel_size_um)
    scene = draw_scene(rng, steel, (size[0] + 2 * MARGIN, size[1] + 2 * MARGIN))
    seen = look_at(rng, scene, steel, random_look(rng))
    se2, inlens = seen.image.astype(np.uint8)
    label = seen.label[0].astype(np.uint8)
    return Synthetic(se2, inlens, label, _truth(scene, label, seen.body), steel.pixel_size_um)


def _truth(scene: Scene, label: np.ndarray, body: np.ndarray) -> pd.DataFrame:
    """The table of the carbides that the label shows."""
    mine = np.where(label > 0, body, -1)
    area = np.bincount(mine[mine >= 0], minlength=len(scene.row))
    shown = np.flatnonzero(area)
    border = np.concatenate([mine[0], mine[-1], mine[:, 0], mine[:, -1]])
    centres = np.array(ndimage.center_of_mass(label, mine, shown)).reshape(-1, 2)
    pixel = scene.steel.pixel_size_um
    columns = (
        np.arange(1, len(shown) + 1),
        scene.shape[shown],
        *centres.T,
        *centres.T * pixel,
        scene.ecd[shown].astype(float) * pixel,
        area[shown],
        scene.aspect[shown],
        np.degrees(scene.angle[shown]) % 180,
        np.isin(shown, border),
    )
    return pd.DataFrame(dict(zip(TRUTH_COLUMNS, columns, strict=True)))
