"""Small measured samples for the tests of figures and report: discs at random places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from carde_monai.gallery import GalleryPicture, gallery_picture
from carde_monai.particles import label_particles, measure_particles
from carde_monai.stereology import measure_field
from carde_monai.summary import Sample, samples, summarise

HOSTILE = "<script>alert(1)</script>&\"'\u2028"


class Study(NamedTuple):
    """What a report is made of."""

    micrographs: pd.DataFrame
    particles: pd.DataFrame
    gallery: list[GalleryPicture]
    samples: list[Sample]
    summaries: list[dict[str, Any]]


def discs(count: int, shape: tuple[int, int] = (96, 128), seed: int = 0) -> np.ndarray:
    """A mask of ``count`` discs that may touch."""
    random = np.random.default_rng(seed)
    row, column = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, bool)
    for y, x, r in zip(
        random.uniform(0, shape[0], count),
        random.uniform(0, shape[1], count),
        random.uniform(2, 6, count),
        strict=True,
    ):
        mask |= (row - y) ** 2 + (column - x) ** 2 <= r**2
    return mask


def study(
    names: Sequence[tuple[str, str]],
    *,
    pixel_size_um: float | None = 0.01,
    count: int = 12,
    images: bool = True,
    saltykov: bool = False,
) -> Study:
    """Measure a micrograph of ``count`` discs for each (sample, micrograph)."""
    rows, tables, gallery = [], [], []
    for seed, (sample, name) in enumerate(names):
        mask = discs(count, seed=seed)
        image = np.stack([80 + 100 * mask, 60 + 50 * mask]).astype(np.uint8) if images else None
        probability = np.where(mask, 0.9, 0.01).astype(np.float32) if images else None
        labels = label_particles(mask)
        table = measure_particles(labels, pixel_size_um, image=image, probability=probability)
        key = {"micrograph": name, "sample": sample}
        rows.append({**key, **measure_field(labels, table, pixel_size_um, probability=probability)})
        tables.append(table.assign(**key))
        picture = gallery_picture(name, sample, labels, pixel_size_um, image=image, probability=probability)
        gallery.append(picture)
    micrographs, particles = pd.DataFrame(rows), pd.concat(tables, ignore_index=True)
    found = samples(micrographs, particles)
    return Study(micrographs, particles, gallery, found, [summarise(one, saltykov=saltykov) for one in found])
