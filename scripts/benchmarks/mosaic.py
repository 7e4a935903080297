"""One large stitched image: time, peak memory, and the same masks as in a crop that fits into the memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image

from benchmarks import product, reference
from benchmarks.job import DEFAULT, Job, weights
from benchmarks.table import Row
from benchmarks.timing import progress, seconds

SIZE, QUICK_SIZE = (15000, 20000), (1500, 2000)
PIXEL_SIZE_UM = 0.00698
WINDOWS = 4  # on a side of the crop


def rows(job: Job) -> Iterator[Row]:
    """One run; the reference's frame scaled by the area."""
    size = QUICK_SIZE if job.quick else SIZE
    source = _write(job, size)
    plain = reference.network(weights=weights(job.folder, DEFAULT))
    share = size[0] * size[1] / (job.size[0] * job.size[1])
    dest = job.scratch("reference")
    pair = job.pair()
    reference.segment_pair(plain, pair, dest, job.size[0])
    theirs = [
        share * seconds(lambda: reference.segment_pair(plain, pair, dest, job.size[0]))
        for _ in range(job.repeats)
    ]
    progress("ours")
    run = product.segment(job, source, "--pixel_size", str(PIXEL_SIZE_UM))
    what = f"{size[1]} x {size[0]} px"
    note = f"ours: one run; reference: one frame, times {share:.0f}"
    yield Row("mosaic", f"{what}, `carde-monai segment`", [run.seconds], theirs, note=note)
    limit = job.value_target(6000)
    yield Row("mosaic", f"{what}, peak memory", [run.peak_mb], unit="MB", target=limit)
    (job.folder / "ours").rename(job.folder / "mosaic_ours")  # the crop's workflow writes there, too
    pixels, furthest, edges = _differing(job, source)
    yield Row(
        "mosaic",
        f"pixels of the mask that differ in a crop of {edges[1]} x {edges[0]} px, itself segmented",
        [pixels],
        unit="px",
        target=job.value_target(0),
        note=f"largest difference of the probability {furthest:.2g}",
    )


def _write(job: Job, size: tuple[int, int]) -> Path:
    """Folder of a pair of TIFF files: the synthetic frames, mirrored at their edges until all is full."""
    folder = job.folder / "mosaic"
    folder.mkdir()
    frames = [reference.read(job.pair(number), job.size[0]) for number in range(4)]
    for channel in range(2):
        top, bottom = (np.hstack([one[channel] for one in pair]) for pair in (frames[:2], frames[2:]))
        block = np.vstack((top, bottom))
        block = block[: size[0], : size[1]]
        more = [(0, whole - part) for whole, part in zip(size, block.shape, strict=True)]
        tifffile.imwrite(folder / f"mosaic_{channel + 1:03d}.tif", np.pad(block, more, mode="symmetric"))
    return folder


def _differing(job: Job, source: Path) -> tuple[int, float, list[int]]:
    """Pixels of the mask that differ, largest difference of the probability, and size of the crop compared.

    The crop is the top left corner, whose windows lie where the mosaic's do, as the mosaic is normalised; its
    last window is left out, for there the mosaic has another on top.
    """
    loaded = product.load(job, pair=sorted(source.glob("*.tif")), source=source, pixel_size=PIXEL_SIZE_UM)
    sides = zip(loaded.image.shape[-2:], loaded.window, loaded.step, strict=True)
    edges = [step * min(WINDOWS, (side - window) // step) for side, window, step in sides]
    rows, columns = (edge + window for edge, window in zip(edges, loaded.window, strict=True))
    probability = torch.sigmoid(loaded(loaded.image[..., :rows, :columns])).cpu().numpy()
    probability = probability[0, 0, : edges[0], : edges[1]]
    del loaded
    results = job.folder / "mosaic_ours"
    mask = _corner(next(results.glob("*_mask.png")), edges) > 0
    written = tifffile.imread(next(results.glob("*_probability.tif")))[: edges[0], : edges[1]]
    furthest = float(np.abs(written - probability).max())
    return int(np.count_nonzero(mask != (probability > 0.5))), furthest, edges


def _corner(path: Path, edges: list[int]) -> np.ndarray:
    Image.MAX_IMAGE_PIXELS = None  # the file is our own
    with Image.open(path) as image:
        return np.asarray(image.crop((0, 0, edges[1], edges[0])))
