"""The tables and label images that ``measure`` and ``segment`` wrote, read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tifffile
from pandas.api.types import is_numeric_dtype

from carde_monai.errors import InputError
from carde_monai.summary import Sample, samples

SEPARATOR = "::"  # between a folder and one of its samples
NAMES = ("micrograph", "sample")
AGAIN = "run carde-monai measure again"
FOREIGN = "give a folder that carde-monai measure or segment wrote"
# what the statistics need, in the order of the files; {u} is the unit
FIELD_COLUMNS = (
    *("width_px", "height_px", "pixel_size_um", "field_area_{u}2", "min_area_px", "carbides"),
    *("carbides_counted", "area_fraction", "intercepts", "scan_length_{u}"),
    *("nearest_neighbour_mean_{u}", "nearest_neighbour_random_{u}"),
)
PARTICLE_COLUMNS = ("equivalent_circle_diameter_{u}", "border_weight")


def read_sample(source: str | Path) -> Sample:
    """Read the micrographs of a folder as one sample; ``FOLDER::SAMPLE`` reads one of several.

    The folder holds micrographs.csv and particles.csv. Several samples are pooled to one that is called like
    the folder.

    Raises:
        InputError: the folder or a table does not exist, is damaged or lacks a column, names a micrograph
            twice, or one or carbides that the other table lacks; there is no such sample; or micrographs of
            known and of unknown pixel size are mixed.
    """
    folder, wanted = split_source(source)
    if not folder.is_dir():
        wrong = "is a file" if folder.exists() else "no such folder"
        raise InputError(folder, wrong, FOREIGN)
    fields, particles = read_table(folder / "micrographs.csv"), read_table(folder / "particles.csv")
    units = _units(fields, folder / "micrographs.csv")
    _check_columns(fields, folder / "micrographs.csv", FIELD_COLUMNS, units)
    _check_columns(particles, folder / "particles.csv", PARTICLE_COLUMNS, units)
    _check_names(fields, particles, folder)
    _check_counts(fields, particles, folder)
    if wanted is None:
        name = folder.resolve().name
        fields, particles = fields.assign(sample=name), particles.assign(sample=name)
    found = samples(fields, particles)
    fitting = [sample for sample in found if wanted is None or sample.name == wanted]
    if not fitting:
        known = ", ".join(sample.name for sample in found)
        raise InputError(folder, f"holds no sample {wanted}", f"it holds {known}")
    if len(fitting) > 1:
        remedy = f"measure them again with --pixel_size, or name one: '{folder}{SEPARATOR}SAMPLE'"
        raise InputError(folder, "the pixel size of some micrographs is known, of others not", remedy)
    if wanted is None:
        return fitting[0]
    return replace(fitting[0], name=f"{folder.resolve().name}, {wanted}")  # other folders hold it, too


def split_source(source: str | Path) -> tuple[Path, str | None]:
    """The folder of ``FOLDER`` or ``FOLDER::SAMPLE``, and the sample, if one is named."""
    folder, separator, sample = str(source).rpartition(SEPARATOR)
    if not separator or Path(source).exists():  # :: is allowed in names
        return Path(source), None
    return Path(folder), sample


def read_labels(path: Path) -> npt.NDArray[Any]:
    """Read ``<micrograph>_labels.tif``, (H, W) integers. Raises InputError if there is none."""
    if not path.is_file():
        raise InputError(path, "no such file", AGAIN)
    try:
        labels = tifffile.imread(path)
    except Exception as error:  # of a damaged file tifffile and its codecs raise whatever they stumble on
        raise InputError(path, f"cannot be read ({error})", AGAIN) from error
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        found = f"shape {labels.shape}, {labels.dtype}"
        raise InputError(path, f"is damaged or not an image of numbered carbides ({found})", AGAIN)
    return labels


def read_table(path: Path) -> pd.DataFrame:
    """Read micrographs.csv or particles.csv; names stay text. InputError if it is missing or damaged."""
    if not path.is_file():
        raise InputError(path.parent, f"has no {path.name}", "run carde-monai measure on its masks")
    try:
        figures = [column for column in pd.read_csv(path, nrows=0) if column not in NAMES]
        # a micrograph may be called 001 or NA: its name stays text
        return pd.read_csv(
            path,
            dtype=dict.fromkeys(NAMES, str),
            keep_default_na=False,
            na_values=dict.fromkeys(figures, ("", "nan", "NaN")),
            low_memory=False,
        )
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(path, f"is damaged ({error})", AGAIN) from error


def measured_large(folder: Path) -> float:
    """The diameter in micrometres from which a carbide counted as large there; 0.5 if nothing tells it."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return float(summary["samples"][0]["large_um"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return 0.5


def _units(fields: pd.DataFrame, path: Path) -> list[str]:
    """Units in which the micrographs of a table were measured."""
    if not len(fields):
        raise InputError(path, "holds no micrograph", AGAIN)
    if "pixel_size_um" not in fields:
        raise InputError(path, "has no column pixel_size_um", FOREIGN)
    known = fields["pixel_size_um"].notna()
    return [unit for unit, some in (("um", known.any()), ("px", not known.all())) if some]


def _check_columns(table: pd.DataFrame, path: Path, columns: tuple[str, ...], units: list[str]) -> None:
    """Refuse a table that lacks a column or has text among its figures."""
    for column in [*NAMES, *dict.fromkeys(column.format(u=unit) for unit in units for column in columns)]:
        if column not in table:
            raise InputError(path, f"has no column {column}", FOREIGN)
        if column not in NAMES and len(table) and not is_numeric_dtype(table[column]):
            raise InputError(path, f"not every {column} is a number", AGAIN)


def _check_counts(fields: pd.DataFrame, particles: pd.DataFrame, folder: Path) -> None:
    """Refuse tables that do not belong together: rows lost in a copy, or taken out in a spreadsheet."""
    counts = fields["micrograph"].map(particles["micrograph"].value_counts()).fillna(0)
    for name, rows, carbides in zip(fields["micrograph"], counts, fields["carbides"], strict=True):
        if rows != carbides:
            wrong = f"has {rows:.0f} carbides of {name}, but micrographs.csv says {carbides:g}"
            raise InputError(folder / "particles.csv", wrong, AGAIN)


def _check_names(fields: pd.DataFrame, particles: pd.DataFrame, folder: Path) -> None:
    twice = fields["micrograph"][fields["micrograph"].duplicated()]
    if len(twice):
        raise InputError(folder / "micrographs.csv", f"names {twice.iloc[0]} twice", AGAIN)
    strange = set(particles["micrograph"]) - set(fields["micrograph"])
    if strange:
        wrong = f"names {min(strange)}, which micrographs.csv does not"
        raise InputError(folder / "particles.csv", wrong, AGAIN)
