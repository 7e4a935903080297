"""Crops of random micrographs without end, for training: a MONAI transform that makes instead of loads.

    {"_target_": "Dataset", "data": "$range(64)", "transform": {"_target_": "Compose", "transforms": [
        {"_target_": "carde_monai.synthetic_dataset.RandMicrographCrops", "spatial_size": "@roi_size"},
        "@normalize"]}}

With `carde_monai.seeding` (`SeededDataset`, `SeededSampler`) what is drawn depends on seed, epoch and place
only, whichever worker draws it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable, Transform

from carde_monai.errors import InputError
from carde_monai.synthetic_look import look_at
from carde_monai.synthetic_maps import draw_scene
from carde_monai.synthetic_paint import cut
from carde_monai.synthetic_random import PIXEL_SIZES_UM, Look, random_look, random_steel, regreyed
from carde_monai.synthetic_scan import MARGIN

SMALLEST = 32


class RandMicrographCrops(Randomizable, Transform):
    """Each call draws a random steel and a scene of it, and looks at ``crops`` parts of the scene.

    Geometry is shared by the crops of a call; greys, detectors, focus, noise, faults of the scan and the
    convention of the label are drawn for each crop (`carde_monai.synthetic_random` has the ranges). What it
    is called with does not matter. Returns a list of {"image", "label"}, float32 tensors: (2, H, W) raw greys
    of SE2 and InLens, whole numbers from 0 to 255, and (1, H, W) of 0 and 1.

    Args:
        spatial_size: rows and columns of a crop.
        crops: number of crops of a scene; fewer are more various and take longer.
        scene_size: rows and columns of a scene, 2.5 crops unless given.
        pixel_size_um: limits of the pixel size.
        one_detector: probability of a micrograph whose two channels are one image; the default is that of
            `synthetic_random.CHANCES`.

    Raises InputError if a crop is smaller than 32 pixels or does not fit into the scene.
    """

    def __init__(
        self,
        spatial_size: tuple[int, int] = (256, 256),
        crops: int = 8,
        scene_size: tuple[int, int] | None = None,
        pixel_size_um: tuple[float, float] = PIXEL_SIZES_UM,
        one_detector: float | None = None,
    ) -> None:
        self.spatial_size, self.crops = tuple(spatial_size), crops
        self.scene_size = tuple(scene_size or (round(2.5 * max(spatial_size)),) * 2)
        self.pixel_size_um, self.one_detector = tuple(pixel_size_um), one_detector
        if min(spatial_size) < SMALLEST:
            raise InputError(f"spatial_size {list(spatial_size)}", "too small", f"give at least {SMALLEST}")
        if min(self.scene_size) < max(spatial_size) + 2 * MARGIN:
            wanted = max(spatial_size) + 2 * MARGIN
            raise InputError(f"scene_size {list(self.scene_size)}", "too small", f"give at least {wanted}")
        self.rng = np.random.default_rng(0)

    def randomize(self, data: Any = None) -> None:
        """Seed the draws of one call from the transform's own random state."""
        self.rng = np.random.default_rng(self.R.randint(2**32, size=4, dtype=np.uint64))

    def __call__(self, data: Any = None) -> list[dict[str, torch.Tensor]]:
        self.randomize()
        rng = self.rng
        steel = random_steel(rng, self.pixel_size_um)
        scene = draw_scene(rng, steel, self.scene_size)
        size = self.spatial_size[0] + 2 * MARGIN, self.spatial_size[1] + 2 * MARGIN
        drawn = []
        for _ in range(self.crops):
            seen = look_at(rng, cut(rng, scene, size), regreyed(rng, steel), self._look())
            drawn.append({"image": torch.from_numpy(seen.image), "label": torch.from_numpy(seen.label)})
        return drawn

    def _look(self) -> Look:
        if self.one_detector is None:
            return random_look(self.rng)
        return random_look(self.rng, self.one_detector)
