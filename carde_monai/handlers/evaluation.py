"""Writes tables, summary and pictures of an evaluation, for the network and the methods beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from monai.utils import convert_to_numpy

from carde_monai.compare import agreement
from carde_monai.errors import InputError
from carde_monai.evaluation import METRICS, TILE, scores, summarise, tile_dice
from carde_monai.handlers.baseline import decollated
from carde_monai.handlers.segmentation import micrograph_name, pixel_size_um
from carde_monai.particles import MIN_AREA
from carde_monai.replacing import all_or_none
from carde_monai.report import box_plot, error_picture

Row = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """What the picture of one micrograph needs; ``score`` is its Dice by the first method."""

    score: float
    name: str
    section: str
    image: np.ndarray
    label: np.ndarray
    masks: dict[str, np.ndarray]
    pixel_size_um: float | None


class MicrographReport:
    """Score every micrograph of an evaluator and write the report of the run into ``output_dir``.

    Files: ``metrics.csv`` (a row a micrograph), ``tiles.csv`` (a row a tile), ``summary.json``,
    ``box_plot.png`` (Dice of the tiles), ``overlay_best.png`` and ``overlay_worst.png`` (by Dice of the first
    method). ``methods`` maps names to the masks in the output items; by default the network's ``pred`` and,
    where a handler wrote it, the ``baseline``. The first method's probability is
    ``output[i]["probability"]``. Needs decollated items with ``name``, ``section`` and ``raw`` in the batch.
    Medians go into ``engine.state.metrics`` as ``<section>_<method>_<metric>_median``, those of the tiles
    with the metric ``tile_dice``.
    """

    def __init__(
        self, output_dir: str | Path, methods: Mapping[str, str] | None = None, tile: int = TILE
    ) -> None:
        if methods is not None and not methods:
            raise ValueError("an evaluation needs at least one method")
        if tile < 1:
            raise ValueError(f"the edge of a tile is a positive number of pixels, not {tile}")
        self.output_dir = Path(output_dir)
        self.methods = methods
        self.tile = tile
        self._reset()

    def attach(self, engine: Engine) -> None:
        """Subscribe to the start, every iteration and the end of a run."""
        engine.add_event_handler(Events.STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def _reset(self) -> None:
        self._micrographs: list[Row] = []
        self._tiles: list[Row] = []
        self._best: Picture | None = None
        self._worst: Picture | None = None

    def __call__(self, engine: Engine) -> None:
        for item, output in decollated(engine):
            masks = self._masks(output)
            key = {"name": micrograph_name(item), "section": str(item.get("section", "test"))}
            row: Row = dict(key)
            for place, (method, mask) in enumerate(masks.items()):
                probability = output.get("probability") if place == 0 else None
                found = scores(mask, output["label"], probability)
                binary = (convert_to_numpy(one)[0] > 0.5 for one in (mask, output["label"]))
                found |= agreement(*binary, min_area=MIN_AREA)
                row |= {f"{method}_{metric}": found[metric] for metric in METRICS}
            self._micrographs.append(row)
            self._add_tiles(key, masks, output["label"])
            self._keep(row[f"{next(iter(masks))}_dice"], key | {"raw": item["raw"]}, masks, output["label"])

    def _masks(self, output: Mapping[str, Any]) -> dict[str, Any]:
        methods = self.methods
        if methods is None:
            methods = {"network": "pred"} | ({"baseline": "baseline"} if "baseline" in output else {})
        missing = [key for key in methods.values() if key not in output]
        if missing:
            raise KeyError(f"the evaluator's output has no {missing}; keys: {sorted(output)}")
        return {method: output[key] for method, key in methods.items()}

    def _add_tiles(self, key: Row, masks: Mapping[str, Any], label: Any) -> None:
        grids = {f"{method}_dice": tile_dice(mask, label, self.tile) for method, mask in masks.items()}
        for row, column in np.ndindex(next(iter(grids.values())).shape):
            place = {"row": row, "column": column}
            self._tiles.append(key | place | {name: grid[row, column] for name, grid in grids.items()})

    def _keep(self, score: float, item: Row, masks: Row, label: Any) -> None:
        # Two pictures at most stay in memory, however many micrographs there are.
        best = self._best is None or score > self._best.score
        worst = self._worst is None or score < self._worst.score
        if not (best or worst):
            return
        arrays = {method: convert_to_numpy(mask)[0] > 0.5 for method, mask in masks.items()}
        raw, truth = item["raw"], convert_to_numpy(label)[0] > 0.5
        image, pixel_size = convert_to_numpy(raw), pixel_size_um(raw)
        picture = Picture(score, item["name"], item["section"], image, truth, arrays, pixel_size)
        self._best = picture if best else self._best
        self._worst = picture if worst else self._worst

    def _complete(self, engine: Engine) -> None:
        micrographs = _gathered(self._micrographs, ("name",))
        tiles = _gathered(self._tiles, ("name", "row", "column"))
        if not micrographs:
            raise InputError(self.output_dir, "no micrograph was evaluated", "name a section that has some")
        methods = [column.removesuffix("_dice") for column in micrographs[0] if column.endswith("_dice")]
        summary = summarise(micrographs, tiles, methods)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        chosen = {"best": self._draw(self._best, "best", 1), "worst": self._draw(self._worst, "worst", -1)}
        if idist.get_rank() == 0:
            self._write(micrographs, tiles, {"tile_px": self.tile, **chosen, "sections": summary}, methods)
        engine.state.metrics.update(_medians(summary, methods))

    def _draw(self, picture: Picture | None, which: str, sign: int) -> str:
        """Draw on the rank that holds the best (or worst) of all; returns its name on every rank."""
        held: Any = idist.all_gather((picture.score, picture.name) if picture else None)
        candidates = [(sign * entry[0], -rank) for rank, entry in enumerate(held) if entry]
        owner = -max(candidates)[1]
        if picture is not None and owner == idist.get_rank():
            title = f"{which} of the evaluation: {picture.name} ({picture.section})"
            path = self.output_dir / f"overlay_{which}.png"
            error_picture(picture.image, picture.label, picture.masks, path, picture.pixel_size_um, title)
        return str(held[owner][1])

    def _write(self, micrographs: list[Row], tiles: list[Row], summary: Row, methods: list[str]) -> None:
        columns = ["name", "section", "row", "column", *(f"{method}_dice" for method in methods)]
        frame = pd.DataFrame(tiles, columns=columns)
        text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
        rows, unit = (tiles, f"tile of {self.tile} px") if tiles else (micrographs, "micrograph")
        groups = {
            f"{method} {section}": [row[f"{method}_dice"] for row in rows if row["section"] == section]
            for section in summary["sections"]
            for method in methods
        }
        with all_or_none(self.output_dir) as folder:
            pd.DataFrame(micrographs).to_csv(folder / "metrics.csv", index=False, float_format="%.6g")
            frame.to_csv(folder / "tiles.csv", index=False, float_format="%.6g")
            (folder / "summary.json").write_text(text, encoding="utf-8")
            box_plot(groups, folder / "box_plot.png", f"Dice per {unit}")


def _gathered(rows: list[Row], key: tuple[str, ...]) -> list[Row]:
    """The rows of all ranks, each once (samplers for several ranks repeat some), by section and key."""
    parts: Any = idist.all_gather(rows)
    unique: dict[tuple[Any, ...], Row] = {
        (row["section"], *(row[k] for k in key)): row for part in parts for row in part
    }
    sections = list(dict.fromkeys(section for section, *_ in unique))  # in the order of the evaluation
    return [unique[k] for k in sorted(unique, key=lambda k: (sections.index(k[0]), *k[1:]))]


def _medians(summary: Mapping[str, Any], methods: list[str]) -> dict[str, float]:
    medians: dict[str, float] = {}
    for section, parts in summary.items():
        for method in methods:
            found = {metric: parts["micrographs"][method][metric]["median"] for metric in METRICS}
            found["tile_dice"] = parts["tiles"][method]["dice"]["median"]
            medians |= {f"{section}_{method}_{k}_median": v for k, v in found.items() if v is not None}
    return medians
