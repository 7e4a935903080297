"""The table of the particles of a mask."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import numpy as np

from benchmarks import reference
from benchmarks.job import Job
from benchmarks.table import Row
from benchmarks.timing import alternate, seconds

COUNT, QUICK_COUNT = 5000, 300


def rows(job: Job) -> Iterator[Row]:
    """One row."""
    from carde_monai.particles import MIN_AREA, label_particles, measure_particles

    count = QUICK_COUNT if job.quick else COUNT
    mask = discs(count, job.size)
    image = np.random.default_rng(0).integers(0, 255, (2, *job.size), np.uint8)
    probability = mask.astype(np.float32)
    found = []

    def ours() -> None:
        labels = label_particles(mask, min_area=MIN_AREA)
        found.append(len(measure_particles(labels, 0.007, image=image, probability=probability)))

    with one_core():
        measured = alternate(
            lambda: seconds(lambda: reference.measure(mask, image)), lambda: seconds(ours), job.repeats
        )
    if set(found) != {count}:
        raise RuntimeError(f"{count} carbides were drawn, {found} found")
    what = f"table of {count} carbides in a frame, one core"
    yield Row("measurement", what, measured[1], measured[0], target=job.value_target(2))


def discs(count: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool mask of ``count`` ellipses that do not touch, a cell of a grid each."""
    height, width = size
    columns = int(np.ceil(np.sqrt(count * width / height)))
    edge = min(width / columns, height / np.ceil(count / columns))
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    row, column = (y // edge).astype(int), (x // edge).astype(int)
    number = np.where(column < columns, row * columns + column, count)
    number = np.where(number < count, number, count)
    # half axes that leave a pixel of the cell free on all sides
    axes = draw.uniform(0.2, 0.5, (count + 1, 2)) * (edge - 3)
    axes[count] = 0.1  # what belongs to no cell
    along, across = axes[number].transpose(2, 0, 1)
    mask = ((x - (column + 0.5) * edge) / along) ** 2 + ((y - (row + 0.5) * edge) / across) ** 2 <= 1
    return mask & (number < count)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep all threads of this process on one core, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    _keep_on({min(cores)})
    try:
        yield
    finally:
        _keep_on(cores)


def _keep_on(cores: set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread), cores)
