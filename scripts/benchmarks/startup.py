"""Start-up: ``carde-monai --help``, and ``segment`` of one small frame, imports included."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import product
from benchmarks.job import Job, small_frame
from benchmarks.product import each
from benchmarks.table import Row
from benchmarks.timing import alternate


def rows(job: Job) -> Iterator[Row]:
    """Two rows."""
    plain = [product.sys.executable, "-m", "benchmarks.reference", "--help"]
    reference, ours = alternate(
        each(lambda: product.run(job, plain)),
        each(lambda: product.run(job, [*product.program(), "--help"])),
        job.repeats,
    )
    yield Row("startup", "`carde-monai --help`", ours, reference, target=job.value_target(0.3))
    source = small_frame(job)
    product.segment(job, source)  # what is kept between runs (a converted network) is made once
    reference, ours = alternate(
        each(lambda: product.reference_segment(job, source, 352)),
        each(lambda: product.segment(job, source)),
        job.repeats,
    )
    yield Row(
        "startup",
        "`carde-monai segment`, one frame of 512 x 352 px",
        ours,
        reference,
        target=job.value_target(6),
    )
