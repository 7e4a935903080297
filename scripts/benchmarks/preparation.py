"""Preparation: raw frames and labels to a data set."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import reference
from benchmarks.job import Job
from benchmarks.table import Row
from benchmarks.timing import alternate, seconds


def rows(job: Job) -> Iterator[Row]:
    """One row."""
    from carde_monai.prepare import prepare

    count = 2 if job.quick else 4
    source = job.frames(count)

    def ours() -> float:
        dest = job.scratch("prepared")
        return seconds(lambda: prepare(source, dest, split="1,0,0"))

    def plain() -> float:
        dest = job.scratch("plain")
        return seconds(lambda: reference.prepare(source, dest, job.size[0]))

    measured = alternate(plain, ours, job.repeats)
    what = "frames (ours: with pixel size, quick-look pictures, data list)"
    yield Row("preparation", what, measured[1], measured[0], items=count)
