"""The report as one HTML file that needs no network: numbers, figures, pictures, tables, and what was run.

Names of files and samples are anybody's: they reach the page as escaped text (Jinja's autoescape), as
escaped JSON, and in the page's script as text nodes only. A content security policy allows that one script.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from carde_monai.errors import Failure
from carde_monai.figures import FigureFile
from carde_monai.gallery import PALETTE, GalleryPicture
from carde_monai.pictures import scale_bar_length
from carde_monai.replacing import replace_file
from carde_monai.report_text import (
    NO_INTERVAL,
    column_text,
    number,
    plural,
    quantity,
    sentence,
    summary_rows,
    volume_table,
)

TEMPLATES = Path(__file__).with_name("templates")
DIGITS = 4  # of the numbers in the tables
KEYS = {
    "number_density": "number density",
    "area_fraction": "area fraction",
    "ecd_median": "median diameter",
    "mean_free_path": "mean free path",
}


def write_report(
    path: Path,
    *,
    title: str,
    summaries: Sequence[Mapping[str, Any]],
    micrographs: pd.DataFrame,
    particles: pd.DataFrame,
    figures: Sequence[FigureFile],
    gallery: Sequence[GalleryPicture],
    facts: Mapping[str, str],
    warnings: Sequence[str],
    failures: Sequence[Failure],
) -> None:
    """Write the report of some samples to ``path``, whose folder must exist.

    ``summaries`` are those of `summarise`; ``micrographs`` has a row a field and ``particles`` a row a
    carbide, both with the columns ``micrograph`` and ``sample``; the report rounds to four digits.
    ``gallery`` may lack micrographs. Raises ValueError for carbides of a micrograph that has no row.
    """
    style, script = (TEMPLATES / name for name in ("report.css", "report.js"))
    code = script.read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").stream(
        title=title,
        date=facts.get("date") or time.strftime("%Y-%m-%d %H:%M"),
        style=Markup(style.read_text(encoding="utf-8")),
        script=Markup(code),
        script_hash=_hash(code),
        samples=[_sample(summary) for summary in summaries],
        groups=summary_rows(summaries),
        volumes=[table for table in map(volume_table, summaries) if table],
        pixels=[summary["sample"] for summary in summaries if summary["unit"] == "px"],
        figures=[
            _Figure(one.title, one.caption, _data_uri(one.svg.read_bytes(), "svg+xml")) for one in figures
        ],
        cards=[_card(picture, micrographs) for picture in gallery],
        pictures=gallery,
        base64=_base64,
        palette=[f"rgb({r} {g} {b})" for r, g, b, _ in PALETTE],
        data={
            "fields": _script_json(_fields(micrographs)),
            "pictures": _script_json(_pictures(gallery, micrographs)),
        },
        carbides=_carbides(particles, micrographs),
        counts={"micrographs": len(micrographs), "carbides": len(particles)},
        facts=facts,
        warnings=warnings,
        failures=failures,
    )
    replace_file(path, lambda part: _write(page, part))


def _write(page: Any, path: Path) -> None:
    """Write piece by piece; bytes that are no text become ``?``."""
    with path.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.writelines(page)


@dataclass(frozen=True)
class _Figure:
    title: str
    caption: str
    source: str


def _sample(summary: Mapping[str, Any]) -> dict[str, Any]:
    keys = [
        {"name": name, **quantity(key, summary["quantities"][key])}
        for key, name in KEYS.items()
        if summary["quantities"][key]["value"] is not None
    ]
    remark = NO_INTERVAL if summary["micrographs"] == 1 else ""
    return {"name": summary["sample"], "sentence": sentence(summary), "keys": keys, "remark": remark}


def _card(picture: GalleryPicture, micrographs: pd.DataFrame) -> dict[str, Any]:
    """What stands below a thumbnail: scale bar, name, and a few numbers of the field."""
    length, name = scale_bar_length(picture.width_px, picture.pixel_size_um)
    row = _field_of(picture, micrographs)
    numbers = ""
    if row is not None:
        field = micrographs.iloc[row]
        numbers = f"{plural(int(field['carbides']), 'carbide')} · {number(100 * field['area_fraction'])[0]} %"
    return {
        "name": picture.name,
        "sample": picture.sample,
        "numbers": numbers,
        "bar": f"{100 * length / picture.width_px:.2f}%",
        "bar_text": name,
        "width": picture.width_px,
        "height": picture.height_px,
        "source": _data_uri(picture.thumbnail, "webp"),
    }


def _field_of(picture: GalleryPicture, micrographs: pd.DataFrame) -> int | None:
    same = (micrographs["micrograph"] == picture.name) & (micrographs["sample"] == picture.sample)
    rows = np.flatnonzero(same.to_numpy())
    return int(rows[0]) if rows.size else None


# Data of the page's script


def _pictures(gallery: Sequence[GalleryPicture], micrographs: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "field": _field_of(picture, micrographs),
            "name": picture.name,
            "sample": picture.sample,
            "width": picture.width_px,
            "height": picture.height_px,
            "pixel": picture.pixel_size_um,
            "image": picture.has_image,
            "confidence": picture.has_confidence,
        }
        for picture in gallery
    ]


def _fields(micrographs: pd.DataFrame) -> dict[str, Any]:
    """Table of the micrographs by column; those without any value are left out."""
    table = micrographs.dropna(axis="columns", how="all")
    columns, values = [], []
    for name in table:
        kind = _kind(table[name])
        columns.append(_column(str(name), table[name]))
        if kind == "text":
            values.append(["" if pd.isna(value) else str(value) for value in table[name]])
        else:
            values.append(json.loads(_numbers(table[name])))
    return {"columns": columns, "values": values}


def _carbides(particles: pd.DataFrame, micrographs: pd.DataFrame) -> str:
    """Table of the carbides by column as base64 of gzipped JSON: 400,000 rows are some 25 MB.

    ``field`` is the row of the micrograph, instead of its name and sample.
    """
    keys = ["sample", "micrograph"]
    field = pd.MultiIndex.from_frame(micrographs[keys]).get_indexer(pd.MultiIndex.from_frame(particles[keys]))
    if (field < 0).any():
        lost = particles["micrograph"].iloc[int(np.argmin(field))]
        raise ValueError(f"{lost}: its carbides have no row among the micrographs")
    table = particles.drop(columns=keys).dropna(axis="columns", how="all")
    names = [str(name) for name in table if _kind(table[name]) != "text"]
    columns = json.dumps([_column(name, table[name]) for name in names])
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", compresslevel=6, fileobj=packed, mtime=0) as file:
        file.write(f'{{"field":{json.dumps(field.tolist())},"columns":{columns},"values":['.encode("ascii"))
        for index, name in enumerate(names):  # a column at a time, for all of them fill hundreds of MB
            file.write(("," * (index > 0) + _numbers(table[name])).encode("ascii"))
        file.write(b"]}")
    return _base64(packed.getvalue())


def _kind(column: pd.Series[Any]) -> str:
    if pd.api.types.is_bool_dtype(column) or set(column.dropna().map(type)) == {bool}:
        return "flag"
    return "number" if pd.api.types.is_numeric_dtype(column) else "text"


def _column(name: str, column: pd.Series[Any]) -> dict[str, Any]:
    """What the page must know of a column; as many decimals as give its median three digits."""
    label, unit = column_text(name)
    kind = _kind(column)
    decimals = 0
    if kind == "number":
        values = np.abs(_floats(column))
        values = values[np.isfinite(values) & (values > 0)]
        if values.size and (values != np.rint(values)).any():
            decimals = int(np.clip(2 - np.floor(np.log10(np.median(values))), 0, 8))
    return {"name": name, "label": label, "unit": unit, "kind": kind, "decimals": decimals}


def _floats(column: pd.Series[Any]) -> npt.NDArray[np.float64]:
    return column.astype("Float64").to_numpy(float, na_value=np.nan)


def _numbers(column: pd.Series[Any]) -> str:
    """A column of numbers as JSON, rounded to four significant digits; null for what is none."""
    values = rounded(_floats(column))
    whole = np.isfinite(values) & (values == np.rint(values))
    if whole.all():
        return json.dumps(values.astype(np.int64).tolist(), separators=(",", ":"))
    return json.dumps(values.tolist(), separators=(",", ":")).replace("NaN", "null")


def rounded(values: npt.NDArray[np.float64], digits: int = DIGITS) -> npt.NDArray[np.float64]:
    """Round to significant digits; whole numbers stay as they are, infinities become NaN."""
    values = np.where(np.isfinite(values), values, np.nan)
    size = np.abs(np.where((values == 0) | np.isnan(values), 1, values))
    shift = np.clip(digits - 1 - np.floor(np.log10(size)), -300, 300)
    # only whole powers of ten: the division then gives the double nearest to the decimal number
    up, down = 10.0 ** np.maximum(shift, 0), 10.0 ** np.maximum(-shift, 0)
    return np.where(values == np.rint(values), values, np.rint(values / down * up) / up * down)


def _script_json(data: Any) -> Markup:
    """JSON that is inert inside a script element: no ``<``, no ``&``, and nothing beyond ASCII."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for letter in "<>&'":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _hash(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode("utf-8")).digest()).decode("ascii")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{_base64(data)}"
