"""From masks to tables, figures and report: what `segment`, `measure` and `evaluate` end with."""

from __future__ import annotations

import csv
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from carde_monai.errors import Failure, InputError
from carde_monai.figures import write_figures
from carde_monai.gallery import GalleryPicture, gallery_picture
from carde_monai.html_report import write_report
from carde_monai.particles import MIN_AREA, label_particles, measure_particles, save_labels
from carde_monai.provenance import environment
from carde_monai.replacing import all_or_none, replace_file
from carde_monai.runs import MOSAIC, Runs
from carde_monai.stereology import measure_field
from carde_monai.summary import check_large, samples, summarise, summary_table

logger = logging.getLogger("carde_monai")

Array = npt.NDArray[Any]

ROIS = "_rois.zip"  # by `rois`, of the labels
RESULTS = ("report.html", "particles.csv", "summary.json", "summary.csv")
MOSTLY = 0.5  # carbides that cover more are rather the matrix of an inverted mask
# folders that say what is in them, not of which sample it is
KINDS = {"images", "labels", "masks", "original sem images", "preprocessed"}


@dataclass(frozen=True)
class Settings:
    """What counts as a carbide, and what is told of them.

    ``min_area`` in pixels is the smallest that is counted; ``large`` in micrometres the diameter from which
    a carbide counts as large; ``saltykov`` asks for sizes and numbers in the volume.
    """

    split_touching: bool = False
    min_area: int = MIN_AREA
    large: float = 0.5
    saltykov: bool = False

    def __post_init__(self) -> None:
        if type(self.min_area) is not int or self.min_area < 1:
            raise InputError("--min_area", f"{self.min_area} is no area", "give whole pixels, 1 or more")
        check_large(self.large)


@dataclass(frozen=True)
class Field:
    """A micrograph to measure: ``particles`` is an (H, W) mask (bool), or numbers of particles, 0 for none.

    ``image`` is (2, H, W) raw greys, ``probability`` (H, W) calibrated; both may be missing, as may the pixel
    size. ``sample`` names the set of micrographs to which it belongs.
    """

    name: str
    sample: str
    particles: Array
    pixel_size_um: float | None = None
    pixel_size_source: str = "unknown"
    image: Array | None = None
    probability: Array | None = None


@dataclass(frozen=True)
class Measured:
    """A measured field: its row of ``micrographs.csv``, its rows of ``particles.csv``, its picture."""

    name: str
    row: dict[str, Any]
    particles: pd.DataFrame
    picture: GalleryPicture
    warnings: tuple[str, ...] = ()


def sample_name(path: Path, root: Path, group_by: str | None = None) -> str:
    """The sample of a file: the folder below ``root`` in which it lies, or what ``group_by`` finds.

    Folders that are called after their content (images, labels, masks) do not count; files directly in the
    root belong to the sample that is called like the root, or like the folder above if the root is such a
    folder or the file itself. The regular expression ``group_by`` is searched in the path below the root,
    with the file's name; its first group, else all that matches, is the sample.

    Raises:
        InputError: ``group_by`` finds nothing in the path.
    """
    root = root.absolute() if path != root else root.absolute().parent
    inside = path.absolute().relative_to(root)
    if group_by is None:
        parts = [part for part in inside.parts[:-1] if part.lower() not in KINDS]
        folders = [one.name for one in (root, *root.parents) if one.name.lower() not in KINDS]
        return "/".join(parts) or folders[0] or root.name
    found = re.search(group_by, inside.as_posix())
    if not found or not (name := next(filter(None, found.groups()), found[0])):
        remedy = "write one that finds something in the name of every micrograph"
        raise InputError(path, f"--group_by {group_by} finds nothing in {inside.as_posix()}", remedy)
    return name


def check_group_by(group_by: str | None) -> None:
    """Raise InputError if ``group_by`` is no regular expression."""
    try:
        re.compile(group_by or "")
    except (re.error, TypeError) as error:
        remedy = "write for example --group_by 'jfl|anp'"
        raise InputError("--group_by", f"'{group_by}' is no regular expression ({error})", remedy) from None


def measure(field: Field, dest: Path, settings: Settings, side: int) -> Measured:
    """Number and measure the carbides of a micrograph and write ``<name>_labels.tif``.

    ``side`` is the longer side of the report's picture in pixels.

    Raises:
        InputError: the micrograph's name is no file name.
    """
    if not field.name or Path(field.name).name != field.name or not _is_text(field.name):
        raise InputError(ascii(field.name), "cannot name a file", "rename the micrograph")
    labels = _numbered(field.particles, settings)
    size = field.pixel_size_um
    greys = {"image": field.image, "probability": field.probability}
    with ThreadPoolExecutor(1) as pool:  # what compresses pictures releases the GIL
        drawn = pool.submit(gallery_picture, field.name, field.sample, labels, size, **greys, side=side)
        if labels.size > MOSAIC:
            drawn.result()
        particles = measure_particles(labels, size, **greys)
        row = measure_field(
            labels,
            particles,
            size,
            probability=field.probability,
            min_area=settings.min_area,
            large_um=settings.large,
            split_touching=settings.split_touching and field.particles.dtype == bool,
        )
        dest.mkdir(parents=True, exist_ok=True)
        replace_file(dest / f"{field.name}_labels.tif", lambda part: save_labels(labels, part, size))
    particles.insert(0, "sample", field.sample)
    particles.insert(0, "micrograph", field.name)
    key = {"micrograph": field.name, "sample": field.sample}
    row = key | row | {"pixel_size_source": field.pixel_size_source}
    warnings = _warnings(field, row, settings)
    return Measured(field.name, row, particles, drawn.result(), warnings)


def _is_text(name: str) -> bool:
    """Whether it can be written; Python keeps bytes of a file's name that are no UTF-8 as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _numbered(particles: Array, settings: Settings) -> Array:
    if particles.dtype == bool:
        return label_particles(particles, split_touching=settings.split_touching, min_area=settings.min_area)
    runs = Runs.of(particles)
    # not bincount: numbers may be as large as 32 bits hold
    _, which = np.unique(runs.values, return_inverse=True)
    small = np.bincount(which, runs.lengths) < settings.min_area
    return np.where(runs.painted(particles.shape, small[which]), 0, particles) if small.any() else particles


def _warnings(field: Field, row: Mapping[str, Any], settings: Settings) -> tuple[str, ...]:
    lines = []
    if row["area_fraction"] > MOSTLY:
        share = f"{100 * row['area_fraction']:.0f} %"
        lines.append(f"carbides cover {share} of the area: is the mask inverted (--label_value 0)?")
    if settings.split_touching and field.particles.dtype != bool:
        lines.append("its carbides are numbered already; they are not split")
    return tuple(f"{field.name}: {line}" for line in lines)


def remove_results(dest: Path) -> None:
    """Remove what an earlier measurement has left in ``dest``, so that it cannot be taken for this one's."""
    listed = dest / "micrographs.csv"
    if not listed.is_file():
        return
    with listed.open(newline="", encoding="utf-8") as file:
        names = [row.get("micrograph", "") for row in csv.DictReader(file)]
    for name in names:
        for end in ("_labels.tif", ROIS):
            (dest / f"{Path(name).name}{end}").unlink(missing_ok=True)
    for name in (*RESULTS, listed.name):
        (dest / name).unlink(missing_ok=True)


def write_results(
    measured: Sequence[Measured],
    dest: Path,
    settings: Settings,
    *,
    title: str,
    facts: Mapping[str, str],
    warnings: Sequence[str] = (),
    failures: Sequence[Failure] = (),
) -> list[dict[str, Any]]:
    """Write tables, summary, figures and ``report.html`` of measured micrographs; returns the summaries.

    Files: particles.csv (a row a carbide), micrographs.csv (a row a micrograph), summary.json and
    summary.csv (a sample each), figures/*.png and *.svg, report.html. ``facts`` (what was run), ``warnings``
    and ``failures`` go into the report.

    Raises:
        InputError: nothing was measured.
    """
    if not measured:
        reason = f" ({failures[0].name}: {failures[0].reason})" if failures else ""
        raise InputError(dest, f"no micrograph was measured{reason}", "check the files")
    micrographs = pd.DataFrame([one.row for one in measured])
    particles = pd.concat([one.particles for one in measured], ignore_index=True)
    groups = samples(micrographs, particles)
    summaries = [summarise(sample, large_um=settings.large, saltykov=settings.saltykov) for sample in groups]
    found = [line for one in measured for line in one.warnings]
    for line in found:
        logger.warning("%s", line)
    found += [f"{one['sample']}: {line}" for one in summaries for line in one["warnings"]]
    facts = {**facts, **_facts(micrographs, settings)}
    summary = {"title": title, "facts": facts, "warnings": [*warnings, *found], "samples": summaries}
    text = json.dumps(summary, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    # micrographs.csv comes first of the files by which `remove_results` knows its own
    with all_or_none(dest) as folder:
        particles.to_csv(folder / "particles.csv", index=False, float_format="%.6g")
        micrographs.to_csv(folder / "micrographs.csv", index=False, float_format="%.6g")
        summary_table(summaries).to_csv(folder / "summary.csv", index=False, float_format="%.6g")
        (folder / "summary.json").write_text(text, encoding="utf-8")
        write_report(
            folder / "report.html",
            title=title,
            summaries=summaries,
            micrographs=micrographs,
            particles=particles,
            figures=write_figures(groups, summaries, folder / "figures"),
            gallery=[one.picture for one in measured],
            facts=facts,
            warnings=[*warnings, *found],
            failures=list(failures),
        )
    logger.info("report: %s", dest / "report.html")
    return summaries


def _facts(micrographs: pd.DataFrame, settings: Settings) -> dict[str, str]:
    """What was measured and how, in words."""
    sizes = micrographs.groupby(["pixel_size_um", "pixel_size_source"], dropna=False).size()
    told = [
        "unknown" if pd.isna(size) else f"{1000 * size:.4g} nm ({source})" for size, source in sizes.index
    ]
    numbers = [
        f"{name} in {count} of {len(micrographs)} micrographs"
        for name, count in zip(told, sizes, strict=True)
    ]
    versions = environment()
    program = f"carde_monai {versions.pop('version/carde_monai', '')}"
    commit = versions.pop("run/git_commit")
    command = versions.pop("run/command")
    others = (f"{key.removeprefix('version/')} {value}" for key, value in versions.items())
    return {
        "pixel size": "; ".join(numbers) if len(told) > 1 else told[0],
        "smallest carbide counted": f"{settings.min_area} px",
        "neighbourhood": "8 (carbides that touch at a corner are one), unless they were numbered already",
        "touching carbides": "split by a watershed" if settings.split_touching else "not split",
        "large carbide": f"above {settings.large:g} µm",
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "program": f"{program}, commit {commit}" if commit else program,
        "packages": ", ".join(others),
        "command": command,
    }
