"""On a GPU: network only and training, with the share of the device's peak that is reached."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import training
from benchmarks.inference import BOUNDS, network_only
from benchmarks.job import Job, plain_network, weights
from benchmarks.table import Row
from benchmarks.timing import progress, seconds

# dense bf16 with the tensor cores, TFLOP/s, as the maker states
STATED = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "RTX 4090": 165}
WINDOW = 256
SIDE = 8192


def rows(job: Job) -> Iterator[Row]:
    """Each network with a row for its share of the peak; a note where there is no GPU."""
    if not torch.cuda.is_available():
        yield Row("gpu", "no GPU at hand", [])
        return
    peaks = _peaks()
    for name in BOUNDS:
        row = network_only(job, name, "gpu")
        yield row
        work = row.extra["pixels_through_network"] * _flops_a_pixel(job, name)
        yield _share(f"{name}, network only", work, row.ours, peaks)
    for name in BOUNDS:
        row = training.epochs(job, name, "gpu")
        yield row
        edge = 128  # roi_size of train.json
        work = float(row.items or 0) * edge**2 * _flops_a_pixel(job, name, backward=True)
        yield _share(f"{name}, training", work, row.ours, peaks)


def _peaks() -> dict[str, float]:
    """FLOP/s of the device: of a large bf16 matrix product here, and as the maker states if known."""
    a = torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16)
    a @ a
    times = [seconds(lambda: [a @ a for _ in range(10)]) / 10 for _ in range(5)]
    found = {"measured": 2 * SIDE**3 / statistics.median(times)}
    device = torch.cuda.get_device_name()
    stated = next((value for name, value in STATED.items() if name in device), None)
    progress(f"{device}: {found['measured'] / 1e12:.0f} TFLOP/s in bf16 measured, {stated or '?'} stated")
    return found | ({"stated": stated * 1e12} if stated else {})


def _flops_a_pixel(job: Job, name: str, backward: bool = False) -> float:
    """FLOPs that torch counts for a window, over its pixels."""
    network = plain_network(name, weights(job.folder, name)).train(backward)
    window = torch.zeros(1, 2, WINDOW, WINDOW, device=next(network.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        logits = network(window)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops() / WINDOW**2


def _share(what: str, work: float, times: Any, peaks: dict[str, float]) -> Row:
    against = "stated" if "stated" in peaks else "measured"
    shares = [100 * work / one / peaks[against] for one in times]
    measured = 100 * work / statistics.median(times) / peaks["measured"]
    note = f"{measured:.3g} % of what a matrix product of {SIDE} reaches here"
    what = f"{what}, share of the {against} bf16 peak"
    return Row("gpu", what, shares, unit="%", note=note, extra={"flops": work, "peaks": peaks})
