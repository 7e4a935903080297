"""The classical pipeline."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks import reference
from benchmarks.job import Job
from benchmarks.table import Row
from benchmarks.timing import alternate, seconds


def rows(job: Job) -> Iterator[Row]:
    """Speed, and whether the masks are equal."""
    from carde_monai.baseline import segment

    se2, inlens = reference.read(job.pair(), job.size[0])
    different = int(np.count_nonzero(reference.top_hat(se2, inlens) != segment(se2, inlens)))
    measured = alternate(
        lambda: seconds(lambda: reference.top_hat(se2, inlens)),
        lambda: seconds(lambda: segment(se2, inlens)),
        job.repeats,
    )
    yield Row("baseline", "frames", measured[1], measured[0], items=1)
    yield Row("baseline", "pixels that differ", [different], unit="px", target=job.value_target(0))
