"""What a study's evaluations found, beside what was published: one long table, and what the figures show."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from carde_monai.evaluation import quartiles, signed_rank
from carde_monai.study_lists import tile_name
from carde_monai.tuning_report import PUBLISHED as SEARCHED

TEST_TILES, TEST_FRAMES = "test tiles", "test micrographs"
HOLDOUT_TILES, HOLDOUT_FRAMES = "hold-out tiles", "hold-out micrographs"
NETWORK, BASELINE, SCALED, VARIANCE = "network", "baseline", "temperature scaling", "mean variance"

# Gerçek et al. 2025: (data, method, quantity) -> value, lower and upper quartile
PUBLISHED: dict[tuple[str, str, str], tuple[float, float | None, float | None]] = {
    (TEST_TILES, NETWORK, "median Dice"): (0.98, 0.964, 0.991),
    (TEST_TILES, BASELINE, "median Dice"): (0.85, 0.522, 0.919),
    (HOLDOUT_FRAMES, NETWORK, "median Dice"): (0.94, None, None),
    (HOLDOUT_FRAMES, BASELINE, "median Dice"): (0.90, None, None),
    ("validation", SCALED, "temperature"): (1.87117, None, None),
    ("test", NETWORK, "ECE"): (0.00181, None, None),
    ("test", SCALED, "ECE"): (0.00135, None, None),
    ("test", VARIANCE, "ECE"): (0.00189, None, None),
    ("test", NETWORK, "NLL"): (0.0186, None, None),
    ("test", SCALED, "NLL"): (0.0117, None, None),
    ("test", VARIANCE, "NLL"): (0.0172, None, None),
    ("validation", "search", "Dice loss"): (SEARCHED["validation_loss"], None, None),
}
COLUMNS = ["protocol", "data", "method", "quantity", "value", "low", "high", "n", "spread"]
COLUMNS += ["published", "published_low", "published_high"]

Points = list[dict[str, float]]


@dataclass
class Findings:
    """Results of one protocol.

    Args:
        protocol: its name.
        rows: of the table, columns `COLUMNS`.
        boxes: Dice of each unit by "<method> <data>".
        histories: ``training.csv`` by the name of the training.
        curves: reliability points of the test pixels by method, with how many pixels.
        tiles: Dice of each test tile; columns name (of the micrograph), row, column, network, baseline.
        masks: the folders that hold the masks of a micrograph, or of its tiles, by its name.
        holdout: Dice of each hold-out micrograph; columns name, network, baseline.
        learning: of the learning curve, a row a training.
        notes: what a reader must know, a sentence each.
    """

    protocol: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    boxes: dict[str, list[float]] = field(default_factory=dict)
    histories: dict[str, Path] = field(default_factory=dict)
    curves: dict[str, Points] = field(default_factory=dict)
    tiles: pd.DataFrame = field(default_factory=pd.DataFrame)
    masks: dict[str, list[Path]] = field(default_factory=dict)
    holdout: pd.DataFrame = field(default_factory=pd.DataFrame)
    learning: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        data: str,
        method: str,
        quantity: str,
        value: float | None,
        between: tuple[float | None, float | None] = (None, None),
        n: int | None = None,
        spread: str = "",
    ) -> None:
        """Add a row, with what was published of it."""
        known = PUBLISHED.get((data, method, quantity), (None, None, None))
        told = (self.protocol, data, method, quantity, value, *between, n, spread, *known)
        self.rows.append(dict(zip(COLUMNS, told, strict=True)))

    def add_dice(self, data: str, scores: pd.DataFrame) -> None:
        """Add median and quartiles of the columns network, baseline, mean variance, as far as there are."""
        for method in (NETWORK, BASELINE, VARIANCE):
            if method not in scores:
                continue
            values = scores[method].to_numpy(float)
            found = quartiles(values)
            between = (found["q1"], found["q3"])
            self.add(data, method, "median Dice", found["median"], between, int(found["n"] or 0), "quartiles")
            self.boxes[f"{method} {data}"] = values.tolist()
        if BASELINE in scores and data in (TEST_FRAMES, HOLDOUT_FRAMES):  # tiles of one are not independent
            test = signed_rank(*(scores[method].to_numpy(float) for method in (NETWORK, BASELINE)))
            self.add(data, "network against baseline", "Wilcoxon p", test["p"], n=test["n"])

    def add_temperature(self, temperatures: Sequence[float]) -> None:
        between = (min(temperatures), max(temperatures)) if len(temperatures) > 1 else (None, None)
        middle = float(np.median(temperatures))
        spread = "range of the folds" if len(temperatures) > 1 else ""
        self.add("validation", SCALED, "temperature", middle, between, len(temperatures), spread)

    def add_calibration(self, network: Iterable[Path], variance: Iterable[Path], section: str) -> None:
        """Add ECE and NLL of the pixels of all evaluations (``reliability.json``) of a section together."""
        files = list(network)
        found = {
            NETWORK: pooled(files, section, "raw"),
            SCALED: pooled(files, section, "scaled"),
            VARIANCE: pooled(list(variance), section, "raw"),
        }
        for quantity in ("ECE", "NLL"):
            for method, figures in found.items():
                if figures is not None:
                    self.add(section, method, quantity, figures[quantity], n=figures["pixels"])
        if section == "test":
            self.curves = {method: figures["points"] for method, figures in found.items() if figures}

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=COLUMNS)


def pooled(files: Sequence[Path], section: str, kind: str) -> dict[str, Any] | None:
    """Points, ECE, NLL and number of the pixels of a section in all files together; None if none has it.

    A bin's predicted and observed share is the mean over all its pixels, so that this is what one evaluation
    of all of them would give.
    """
    sums: dict[int, np.ndarray] = {}
    nll = pixels = 0.0
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        if section not in content["sections"]:
            continue
        found = content["sections"][section][kind]
        for point in found["points"]:
            count = point["count"]
            place = min(int(point["predicted"] * content["bins"]), content["bins"] - 1)
            entry = np.array([count, count * point["predicted"], count * point["observed"]])
            sums[place] = sums.get(place, np.zeros(3)) + entry
        total = sum(point["count"] for point in found["points"])
        nll, pixels = nll + total * found["nll"], pixels + total
    if not pixels:
        return None
    points = [
        {"predicted": predicted / count, "observed": observed / count, "count": int(count)}
        for _, (count, predicted, observed) in sorted(sums.items())
    ]
    error = sum(abs(predicted - observed) for _, predicted, observed in sums.values())
    return {"points": points, "ECE": float(error / pixels), "NLL": nll / pixels, "pixels": int(pixels)}


def frame_scores(folders: Sequence[Path], section: str) -> pd.DataFrame:
    """Dice of each micrograph of a section, the mean over the evaluations: name, network[, baseline]."""
    return _mean_scores(folders, "metrics.csv", section, ["name"])


def tile_scores(folders: Sequence[Path], section: str) -> pd.DataFrame:
    """Dice of each full tile, the mean over the evaluations: name, row, column, network[, baseline]."""
    return _mean_scores(folders, "tiles.csv", section, ["name", "row", "column"])


def _mean_scores(folders: Sequence[Path], file: str, section: str, key: list[str]) -> pd.DataFrame:
    table = pd.concat([pd.read_csv(folder / file) for folder in folders])
    names = {f"{method}_dice": method for method in (NETWORK, BASELINE) if f"{method}_dice" in table}
    chosen = table[table["section"] == section].rename(columns=names)[[*key, *names.values()]]
    return chosen.groupby(key, as_index=False).mean()


def with_variance(scores: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The scores with those of the mean-variance network in a column of their own."""
    key = [column for column in ("name", "row", "column") if column in scores]
    mine = other.rename(columns={NETWORK: VARIANCE})[[*key, VARIANCE]]
    return scores.merge(mine, on=key, how="left", validate="one_to_one")


def with_baseline(tiles: pd.DataFrame, baseline: Mapping[str, float]) -> pd.DataFrame:
    """Tiles' scores with the baseline's, cut from its mask of the whole frame, by the tile's name."""
    places = zip(tiles["name"], tiles["row"], tiles["column"], strict=True)
    return tiles.assign(**{BASELINE: [baseline[tile_name(*place)] for place in places]})
