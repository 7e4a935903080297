"""Seconds: of a call, of two calls in turn, and their ratio."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Seconds = Callable[[], float]


def progress(line: str) -> None:
    """Tell what is going on, on stderr."""
    print(line, file=sys.stderr, flush=True)


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes, with what it has left to the GPU."""
    start = time.perf_counter()
    call()
    _wait_for_gpu()
    return time.perf_counter() - start


def _wait_for_gpu() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def alternate(reference: Seconds, ours: Seconds, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of reference, ours, reference, ours, ...: what else the machine does meets both alike."""
    pairs = [(reference(), ours()) for _ in range(repeats)]
    return [one for one, _ in pairs], [other for _, other in pairs]


def ratios(reference: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Reference over ours, pair by pair; the reference's median over each of ours if they are no pairs."""
    if len(reference) != len(ours):
        reference = [statistics.median(reference)] * len(ours)
    return [one / other for one, other in zip(reference, ours, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile (interpolated as NumPy does)."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, middle, upper
