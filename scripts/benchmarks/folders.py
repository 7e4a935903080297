"""Folders of many frames: time and peak memory a frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks import product
from benchmarks.job import Job, link
from benchmarks.product import Run
from benchmarks.table import Row
from benchmarks.timing import progress

WORKERS = 2
ONCE_MORE = 3  # runs of one frame


def rows(job: Job) -> Iterator[Row]:
    """The folders once each but for the smallest; their spread is that over the frames."""
    counts = (1, 4) if job.quick else (1, 8, 64, 256)
    one = [product.segment(job, _folder(job, 1)) for _ in range(min(job.repeats, ONCE_MORE))]
    yield Row("folders", "1 frame, with start-up and report", [run.seconds for run in one])
    ours = {1: sorted(one, key=lambda run: run.peak_mb)[len(one) // 2]}
    progress(f"reference, {counts[1]} frames")
    product.reference_segment(job, _folder(job, counts[1]), job.size[0])
    reference = _between(job.folder / "reference")
    between: dict[int, Sequence[float]] = {}
    for count in counts[1:]:
        progress(f"{count} frames")
        run = ours[count] = product.segment(job, _folder(job, count))
        between[count] = _between(job.folder / "ours")
        what = f"{count} frames, time a frame without start-up and report"
        note = f"one run of {run.seconds:.0f} s, spread over frames; reference: {counts[1]} frames"
        extra = {"seconds": run.seconds, "peak_mb": run.peak_mb}
        yield Row("folders", what, between[count], reference, note=note, extra=extra)
    yield from _memory_and_growth(job, ours)
    yield from _workers(job, counts[1], between[counts[1]])


def _memory_and_growth(job: Job, ours: dict[int, Run]) -> Iterator[Row]:
    for count, run in ours.items():
        what = f"{count} frame{'s' if count > 1 else ''}, peak memory"
        yield Row("folders", what, [run.peak_mb], unit="MB")
    most = max(ours)
    what = f"peak memory of {most} frames over that of 1"
    yield Row("folders", what, [ours[most].peak_mb / ours[1].peak_mb], unit="", target=job.value_target(1.3))
    if len(ours) > 2:
        few, many = [
            (ours[b].seconds - ours[a].seconds) / (b - a) for a, b in list(pairwise(sorted(ours)))[-2:]
        ]
        low, middle, high = sorted(ours)[-3:]
        what = f"time a frame from {middle} to {high} frames against {low} to {middle}, off by"
        off = 100 * abs(many / few - 1)
        yield Row("folders", what, [off], unit="%", target=job.value_target(10))


def _workers(job: Job, count: int, alone: Sequence[float]) -> Iterator[Row]:
    progress(f"{count} frames, {WORKERS} workers")
    run = product.segment(job, _folder(job, count), "--dataloader#num_workers", str(WORKERS))
    what = f"{count} frames, {WORKERS} workers (dataloader#num_workers)"
    note = "against ours without workers"
    yield Row("folders", f"{what}, time a frame", _between(job.folder / "ours"), alone, note=note)
    together = max(run.peak_mb, run.tree_peak_mb)
    yield Row("folders", f"{what}, peak memory of all processes", [together], unit="MB")


def _folder(job: Job, count: int) -> Path:
    """``count`` frames of different names; the files are those of four synthetic ones."""
    folder = job.folder / f"folder_{count}"
    if not folder.exists():
        folder.mkdir()
        for number in range(count):
            for file, place in zip(job.pair(number % 4), (1, 2), strict=True):
                link(file, folder / f"frame_{2 * number + place:03d}.tif")
    return folder


def _between(folder: Path) -> Sequence[float]:
    """Seconds from each mask of a folder to the next."""
    times = sorted(path.stat().st_mtime for path in folder.glob("*_mask.png"))
    return [later - earlier for earlier, later in pairwise(times)]
