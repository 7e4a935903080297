"""The files of suggested fields: crops that `prepare` reads, editable labels, tables and a picture."""

from __future__ import annotations

import csv
import functools
import io
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from carde_monai.errors import Failure, InputError
from carde_monai.pictures import (
    BLACK,
    VERMILLION,
    WHITE,
    font_of,
    grey_picture,
    outline,
    reduced,
    save_png,
    shrunk,
)
from carde_monai.replacing import all_or_none, replace_text
from carde_monai.sem import read_micrograph
from carde_monai.sem_files import check_name
from carde_monai.suggest_ranking import Choice, Place
from carde_monai.tiff import write_tiff

Array = npt.NDArray[Any]
Row = dict[str, str | int]

TABLE, FOLDS = "suggestions.csv", "folds.csv"
PLACE = ("micrograph", "row_px", "column_px", "height_px", "width_px")  # as in `Place`
COLUMNS = ("rank", "name", *PLACE, "entropy_nats", "mutual_information_nats", "score_nats")
# in a folder that `find_micrographs` passes over: with --detectors 1 a picture is a micrograph
OVERVIEW = Path("figures", "suggestions.png")
TILE, ACROSS, MOST_TILES, TEXT = 400, 5, 60, 13  # of the overview; pixels, but for the counts
FEWEST_FOLDS = 3


@dataclass(frozen=True)
class PackedMask:
    """A mask (H, W) of bool in little memory: those of all micrographs wait until the fields are chosen."""

    shape: tuple[int, int]
    packed: bytes

    @classmethod
    def of(cls, mask: Array) -> PackedMask:
        """Pack a mask."""
        return cls((mask.shape[0], mask.shape[1]), zlib.compress(np.packbits(mask).tobytes(), 1))

    def unpacked(self) -> npt.NDArray[np.bool_]:
        """The mask (H, W)."""
        bits = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        return np.unpackbits(bits, count=self.shape[0] * self.shape[1]).reshape(self.shape).astype(bool)


def crop_name(place: Place) -> str:
    """What the micrograph that a field becomes is called; its InLens file ends in 2 instead of 1."""
    return f"{place.micrograph}_r{place.row}_c{place.column}_1"


def write_suggestions(
    choices: Sequence[Choice],
    masks: Mapping[str, PackedMask],
    files: Mapping[str, Sequence[str]],
    dest: Path,
    pixel_size: float | None,
) -> list[Failure]:
    """Write the chosen fields, the best first, into ``dest``; all files are put in place together.

    ``<name>.tif`` and its partner are the greys as the microscope counted them, with the pixel size;
    ``<name>_label.png`` (0/255) is the network's mask. ``masks`` and ``files`` are by micrograph;
    ``pixel_size`` in micrometres wins over the files' own. Fields whose micrograph cannot be read any more
    are returned as failures, once each.
    """
    failures: dict[str, Failure] = {}
    rows: list[Row] = []
    tiles: list[Image.Image] = []
    read = functools.lru_cache(maxsize=8)(functools.partial(read_micrograph, pixel_size=pixel_size))
    with all_or_none(dest) as folder:
        for choice in choices:
            place = choice.candidate.place
            paths = tuple(dict.fromkeys(files[place.micrograph]))
            try:
                image = read(paths)
                mask = masks[place.micrograph]
                if image.pixels.shape[1:] != mask.shape:
                    raise InputError(paths[0], "has changed while it was segmented", "run it again")
                check_name(crop_name(place), Path(paths[0]))
            except InputError as error:
                failures[place.micrograph] = Failure(place.micrograph, str(error))
                continue
            greys, label = place.cut(image.pixels[: len(paths)]), place.cut(mask.unpacked())
            _write_crop(greys, label, folder / crop_name(place), image.pixel_size_um)
            rows.append(_row(len(rows) + 1, choice))
            if len(tiles) < MOST_TILES:
                tiles.append(_tile(greys[0], label, _caption(rows[-1], image.pixel_size_um)))
        if rows:
            _write_tables(rows, folder)
            (folder / OVERVIEW).parent.mkdir()
            save_png(_sheet(tiles), folder / OVERVIEW)
    return list(failures.values())


def read_places(folders: str | None) -> list[Place]:
    """The fields in the tables of ``folders`` (several with commas); InputError if one has no table."""
    found = []
    for folder in (folders or "").split(",") if folders else ():
        path = Path(folder.strip(), TABLE)
        try:
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    found.append(Place(row[PLACE[0]], *(int(row[key]) for key in PLACE[1:])))
        except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
            wrong = f"is no table of suggestions ({type(error).__name__}: {error})"
            raise InputError(path, wrong, "name a folder that carde-monai suggest wrote") from error
    return found


def _write_crop(greys: Array, label: Array, stem: Path, pixel_size_um: float | None) -> None:
    """Write (1 or 2, H, W) greys and the (H, W) label; ``stem`` ends in 1."""
    for number, grey in enumerate(greys, 1):
        path = stem.with_name(f"{stem.name[:-1]}{number}.tif")
        write_tiff(np.ascontiguousarray(grey), path, pixel_size_um, (0, np.iinfo(grey.dtype).max))
    save_png(
        Image.fromarray(label.astype(np.uint8) * np.uint8(255)), stem.with_name(f"{stem.name}_label.png")
    )


def _row(rank: int, choice: Choice) -> Row:
    one, shared = choice.candidate, choice.candidate.mutual_information
    numbers = (one.entropy, shared, choice.score)
    texts = ["" if number is None else f"{number:.6g}" for number in numbers]
    return dict(zip(COLUMNS, (rank, crop_name(one.place), *one.place, *texts), strict=True))


def _write_tables(rows: Sequence[Row], folder: Path) -> None:
    """The suggestions, and folds that keep the fields of one micrograph on one side of every split."""
    _write_csv(folder / TABLE, COLUMNS, [[row[key] for key in COLUMNS] for row in rows])
    micrographs = list(dict.fromkeys(row["micrograph"] for row in rows))
    if len(micrographs) >= FEWEST_FOLDS:
        folds = [[row["name"], micrographs.index(row["micrograph"])] for row in rows]
        _write_csv(folder / FOLDS, ("name", "fold"), folds)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    replace_text(path, text.getvalue())


def _caption(row: Row, pixel_size_um: float | None) -> list[str]:
    name, width = str(row["micrograph"]), int(row["width_px"])
    size = f"{width} px" if pixel_size_um is None else f"{width * pixel_size_um:.3g} µm"
    return [
        f"{row['rank']}  {name if len(name) <= 40 else '…' + name[-39:]}",
        f"row {row['row_px']}, column {row['column_px']}, {size} wide",
        f"entropy {float(row['entropy_nats']):.4f}, score {float(row['score_nats']):.4f} nats",
    ]


def _tile(grey: Array, label: Array, caption: Sequence[str]) -> Image.Image:
    """An (H, W) field with the outline of its label, and lines of text below."""
    shape = reduced(label.shape[::-1], TILE, TILE)
    pixels = np.array(grey_picture(grey).resize(shape, Image.Resampling.BOX).convert("RGB"))
    pixels[outline(shrunk(label, shape))] = VERMILLION
    line = round(1.5 * TEXT)
    tile = Image.new("RGB", (TILE, TILE + line * len(caption) + TEXT), WHITE)
    tile.paste(Image.fromarray(pixels), (0, 0))
    draw = ImageDraw.Draw(tile)
    for number, text in enumerate(caption):
        draw.text((0, shape[1] + TEXT // 2 + line * number), text, BLACK, font_of(TEXT))
    return tile


def _sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    """The tiles, the best first, in rows."""
    across, gap = min(ACROSS, len(tiles)), TEXT
    width, height = tiles[0].width + gap, tiles[0].height
    sheet = Image.new("RGB", (across * width - gap, math.ceil(len(tiles) / across) * height), WHITE)
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % across * width, number // across * height))
    return sheet
