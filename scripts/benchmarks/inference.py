"""One frame: network only, end to end, and how far ours is from plain fp32."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
import torch
from PIL import Image

from benchmarks import product, reference
from benchmarks.job import CARDE, DEFAULT, LARGE, Job, plain_network, weights
from benchmarks.product import each
from benchmarks.table import Row
from benchmarks.timing import alternate, progress, seconds

BOUNDS = {DEFAULT: 8, LARGE: 6, CARDE: 6}


def rows(job: Job) -> Iterator[Row]:
    """Network only for three networks, end to end and agreement for the default one."""
    for name in BOUNDS:
        row = network_only(job, name)
        if name == DEFAULT:
            network_seconds = row.ours
        yield row
    yield from end_to_end(job, network_seconds)
    yield from agreement(job)


def network_only(job: Job, name: str, section: str = "inference") -> Row:
    """Normalised frame in, logits out; windows overlap and are blended in ours."""
    ours = product.load(job, name)
    plain = plain_network(name, weights(job.folder, name))
    part, share, crop = _part(ours, job)
    tiles = reference.tiles(reference.normalise(reference.read(job.pair(), job.size[0])))
    used = _tiles_used(plain, tiles, job)
    notes = [f"reference: {len(used)} of {len(tiles)} tiles, scaled"] if len(used) < len(tiles) else []
    notes += [f"ours: {crop}, {100 * share:.0f} % of the windows, scaled"] if share < 1 else []
    measured = alternate(
        lambda: seconds(lambda: reference.infer(plain, used)) * len(tiles) / len(used),
        lambda: seconds(lambda: ours(part)) / share,
        job.repeats,
    )
    pixels = {"pixels_through_network": ours.pixels(), "frame": list(job.size)}
    target = job.ratio_target(BOUNDS[name])
    what = f"{name}, network only, one frame"
    return Row(section, what, measured[1], measured[0], target=target, note="; ".join(notes), extra=pixels)


def _part(ours: product.Loaded, job: Job) -> tuple[torch.Tensor, float, str]:
    """As much of the frame as takes up to ``job.long_s``, its share of the windows, and its size in words.

    A window, a row of windows, or all.
    """
    image, (height, width) = ours.image, ours.window
    whole = ours.pixels(image)
    parts = [image[..., :height, :width], image[..., :height, :], image]
    shares = [ours.pixels(one) / whole for one in parts]
    ours(parts[0])  # warm: engines are made for shapes they meet
    second = seconds(lambda: ours(parts[0])) / shares[0]
    fitting = [number for number, share in enumerate(shares) if second * share <= job.long_s]
    number = max(fitting, default=0)
    part = parts[number]
    if number:
        ours(part)
    return part, shares[number], f"{part.shape[-1]} x {part.shape[-2]} px"


def _tiles_used(plain: torch.nn.Module, tiles: torch.Tensor, job: Job) -> torch.Tensor:
    """As many tiles, in whole batches, as take up to ``job.long_s``."""
    batch = tiles[: reference.BATCH]
    reference.infer(plain, batch)
    second = seconds(lambda: reference.infer(plain, batch))
    batches = max(1, int(job.long_s / second))
    return tiles[: batches * reference.BATCH]


def end_to_end(job: Job, network_seconds: list[float]) -> Iterator[Row]:
    """Files in, results out; in this process without start-up, then as a process with it."""
    source, rows_ = job.frames(1), job.size[0]
    plain = reference.network(weights=weights(job.folder, DEFAULT))
    pair, reports = job.pair(), []

    def segment_plain() -> float:
        dest = job.scratch("reference")
        return seconds(lambda: reference.segment_pair(plain, pair, dest, rows_))

    def segment_ours() -> float:
        total, report = _segment(job)
        reports.append(report)
        return total

    _segment(job)
    theirs, ours = alternate(segment_plain, segment_ours, job.repeats)
    report = reports[-len(ours) :]
    bare = [one - other for one, other in zip(ours, report, strict=True)]
    what = "default network, end to end, start-up excluded"
    target = job.value_target(1.0, "with AMX")
    yield Row("inference", f"{what}: mask, probability, table", bare, theirs, target=target)
    network = float(np.median(network_seconds))
    rest = [max(one - network, 0.0) for one in bare]
    yield Row("inference", "of which reading, post-processing, writing", rest, target=job.value_target(0.5))
    yield Row("inference", f"{what}: and figures and report", ours, theirs)
    theirs, ours = alternate(
        each(lambda: product.reference_segment(job, source, rows_)),
        each(lambda: product.segment(job, source)),
        job.repeats,
    )
    yield Row("inference", "default network, end to end, `carde-monai segment`, everything", ours, theirs)


def _segment(job: Job) -> tuple[float, float]:
    """Seconds from files to results with the network loaded, and of them those for figures and report."""
    flow = product.inference(job)
    files = seconds(lambda: flow.parser.get_parsed_content("dataset"))  # finds the files and checks them
    flow.initialize()
    spent: list[float] = []
    with contextlib.ExitStack() as stack:
        for name in ("write_figures", "write_report"):
            stack.enter_context(_clocked(f"carde_monai.measurement.{name}", spent))
        done = seconds(flow.run) + seconds(flow.finalize)
    return files + done, sum(spent)


def _clocked(name: str, spent: list[float]) -> contextlib.AbstractContextManager[object]:
    """Note the seconds of every call of a function."""
    module, _, function = name.rpartition(".")
    original: Callable[..., object] = getattr(__import__(module, fromlist=["_"]), function)

    def clocked(*words: object, **named: object) -> object:
        results: list[object] = []
        spent.append(seconds(lambda: results.append(original(*words, **named))))
        return results[0]

    return mock.patch(name, clocked)


def agreement(job: Job) -> Iterator[Row]:
    """Masks of ours and of torch in fp32 with the same windows, and the Dice of both against the truth."""
    progress("agreement with torch in fp32")
    ours = product.load(job)
    plain = plain_network(DEFAULT, weights(job.folder, DEFAULT))
    flow = product.inference(job)
    different, errors, dice = [], [], []
    for number in range(2):
        pair = job.pair(number)
        image = product.normalised(flow, pair)
        mask, wanted = (np.asarray((ours(image, one) > 0).cpu())[0, 0] for one in (None, plain))
        truth = np.asarray(Image.open(pair[0].with_name(f"{pair[0].stem}_label.png"))) > 0
        different.append(100 * float(np.mean(mask != wanted)))
        scores = [reference.dice(one, truth) for one in (mask, wanted)]
        scores.append(reference.dice(_tiled(plain, pair, job), truth))
        dice.append(scores)
        errors.append(abs(scores[0] - scores[1]))
    told = "/".join(f"{one:.4f}" for one in np.median(dice, axis=0))
    target = job.value_target(0.05)
    yield Row("inference", "pixels of the mask that differ from fp32", different, unit="%", target=target)
    yield Row(
        "inference",
        "difference of the Dice against the truth from fp32",
        errors,
        unit="",
        target=job.value_target(0.001),
        note=f"Dice of ours/fp32 with the same windows/plain tiles: {told}",
        extra={"dice": dice},
    )


def _tiled(plain: torch.nn.Module, pair: list, job: Job) -> np.ndarray:
    image = reference.normalise(reference.read(pair, job.size[0]))
    return reference.predict(plain, image) > 0.5
