"""Five suggested fields against five random ones: which teach a network more, on synthetic steel?

For every seed a network is trained on a few micrographs of one steel. The pool that is to be annotated holds
more of it and a few of another steel. ``carde-monai suggest`` ranks all fields of the pool; the first five,
and five drawn at random, get their true labels, and each set continues the same training with the same
settings. Both are tested on micrographs of both steels, as many of each, that are in no other part.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from carde_monai import bundles
from carde_monai.errors import InputError
from carde_monai.prepare import prepare
from carde_monai.suggest_files import PLACE, TABLE
from carde_monai.suggest_ranking import Place
from carde_monai.synthetic import synthesize

SIDE, ALL = 128, 10_000  # pixels of a field; more fields than any pool has
POOL, START, TEST = (256, 384), (192, 192), (192, 256)  # rows, columns
NETWORK: dict[str, Any] = {"depth": 3, "features": 16}
TRAINING: dict[str, Any] = NETWORK | {
    "roi_size": [64, 64],
    "window_size": [192, 192],
    "batch_size": 16,
    "crops_per_micrograph": 4,
    "learning_rate": 0.002,
    "tracking_uri": None,
    "quiet": True,
}
LENGTH = {"max_epochs": 8, "epoch_length": 25}  # of the first and of each further training
ARMS = ("start", "random", "suggested")
Scores = dict[str, float]  # Dice by micrograph


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all seeds, print the table, write results.csv."""
    parser = argparse.ArgumentParser(prog="scripts/compare_suggestions", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("compared_suggestions"), help="folder, made anew")
    parser.add_argument("--seeds", type=int, default=3, help="how many; each has micrographs of its own")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--fields", type=int, default=5)
    options = parser.parse_args(arguments)
    if options.out.exists():
        print(f"{options.out}: exists already; name a new folder", file=sys.stderr)
        return 2
    start = time.monotonic()
    found = {}
    for seed in range(options.first, options.first + options.seeds):
        found[seed] = _one(options.out / f"seed{seed}", seed, options.fields)
        _write(found, options.out / "results.csv")  # a run that is stopped has told what it knew
    print(_table(found, options.fields))
    print(f"{(time.monotonic() - start) / 60:.1f} minutes")
    return 0


def _one(folder: Path, seed: int, count: int) -> dict[str, Scores]:
    """Dice of each test micrograph before and after the further training, by arm."""
    pool, truth, first = folder / "pool", folder / "truth", folder / "start"
    _make(pool, first, 10 * seed)
    truth.mkdir()
    for label in pool.glob("*_label.png"):
        label.rename(truth / label.name)
    bundle = bundles.working_bundle(folder / "bundle")
    data = _prepared(first, folder / "data")
    _train(bundle, data, {}, seed)
    bundles.run(bundle, ["train", "unet", "calibrate"], _settings(data), training=True)
    scores = {"start": _test(bundle, data)}
    print(f"seed {seed}, start: median Dice {_median(scores['start'].values()):.3f}", flush=True)
    names = _suggested(bundle, pool, folder / "suggestions")
    chosen = {"suggested": names[:count], "random": random.Random(seed).sample(names, count)}
    for arm, members in chosen.items():
        source = Path(shutil.copytree(first, folder / arm / "raw"))
        for place in members:
            _annotate(folder / "suggestions", truth, place, source)
        data = _prepared(source, folder / arm / "data")
        own = bundles.working_bundle(folder / arm / "bundle")
        _train(own, data, {"weights": str(bundle / "models" / "model.pt")}, seed)
        scores[arm] = _test(own, data)
        steels = ", ".join(f"{place.micrograph} {place.row},{place.column}" for place, _ in members)
        print(f"seed {seed}, {arm}: median Dice {_median(scores[arm].values()):.3f} ({steels})", flush=True)
    return scores


def _make(pool: Path, first: Path, seed: int) -> None:
    """Raw micrographs: a pool of six of the known steel and two of the other; labelled ones to start from."""
    synthesize(pool, 6, POOL, "jfl", seed=1000 + seed, stem="pool_jfl")
    synthesize(pool, 2, POOL, "anp", seed=1001 + seed, stem="pool_anp")
    synthesize(first, 3, START, "jfl", seed=1002 + seed, stem="start_jfl")
    synthesize(first, 1, START, "jfl", seed=1003 + seed, stem="validation_jfl")
    synthesize(first, 1, START, "anp", seed=1004 + seed, stem="validation_anp")
    for steel, further in (("jfl", 1005), ("anp", 1006)):
        synthesize(first / "hold-out", 4, TEST, steel, seed=further + seed, stem=f"test_{steel}")


def _prepared(source: Path, dest: Path) -> Path:
    """A data set whose validation micrographs are those of that name, and all others but the test's train."""
    failures = prepare(source, dest, split="1,1,0")
    if failures:
        raise InputError(failures[0].name, failures[0].reason)
    path = dest / "datalist.json"
    listed = json.loads(path.read_text(encoding="utf-8"))
    items = [item for section in ("training", "validation") for item in listed[section]]
    for section, wanted in (("training", False), ("validation", True)):
        listed[section] = [one for one in items if one["name"].startswith("validation") == wanted]
    path.write_text(json.dumps(listed), encoding="utf-8")
    return dest


def _settings(data: Path) -> dict[str, Any]:
    return {**TRAINING, "dataset_dir": str(data)}


def _train(bundle: Path, data: Path, settings: dict[str, Any], seed: int) -> None:
    bundles.run(
        bundle, ["train", "unet"], {**_settings(data), **LENGTH, **settings, "seed": seed}, training=True
    )


def _test(bundle: Path, data: Path) -> Scores:
    overrides = {**_settings(data), "sections": ["holdout"], "output_dir": str(bundle / "test")}
    bundles.run(bundle, ["train", "unet", "evaluate"], overrides, training=True)
    with (bundle / "test" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: float(row["network_dice"]) for row in csv.DictReader(file)}


def _suggested(bundle: Path, pool: Path, dest: Path) -> list[tuple[Place, str]]:
    """All fields of the pool, the best first, and their names; a shorter list would begin with the same."""
    overrides = {
        "dataset_dir": str(pool),
        "output_dir": str(dest),
        "n": ALL,
        "suggestions#field": SIDE,
        **NETWORK,
    }
    overrides["window_size"] = TRAINING["window_size"]
    bundles.run(bundle, ["inference", "sem", "segment", "suggest", "unet"], overrides, training=False)
    with (dest / TABLE).open(newline="", encoding="utf-8") as file:
        return [
            (Place(row[PLACE[0]], *(int(row[key]) for key in PLACE[1:])), row["name"])
            for row in csv.DictReader(file)
        ]


def _annotate(suggestions: Path, truth: Path, field: tuple[Place, str], dest: Path) -> None:
    """Copy a field's crops, and cut its label out of the true one: the annotator makes no mistakes."""
    import numpy as np
    from PIL import Image

    place, name = field
    for number in (1, 2):
        shutil.copy(suggestions / f"{name[:-1]}{number}.tif", dest)
    with Image.open(truth / f"{place.micrograph}_label.png") as label:
        Image.fromarray(place.cut(np.asarray(label))).save(dest / f"{name}_label.png")


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _table(found: Mapping[int, dict[str, Scores]], count: int) -> str:
    """Median Dice over the test micrographs of each seed, and of all seeds; by steel, too."""
    lines = [
        f"{'median test Dice':<20}{'start':>10}{f'{count} random':>12}{f'{count} suggested':>14}{'n':>5}"
    ]
    groups = [(f"seed {seed}", [scores], "") for seed, scores in found.items()]
    all_ = list(found.values())
    groups += [("all seeds", all_, ""), ("  known steel", all_, "jfl"), ("  other steel", all_, "anp")]
    for title, members, steel in groups:
        values = [
            [dice for scores in members for name, dice in scores[arm].items() if steel in name]
            for arm in ARMS
        ]
        start, drawn, suggested = (_median(one) for one in values)
        lines.append(f"{title:<20}{start:>10.3f}{drawn:>12.3f}{suggested:>14.3f}{len(values[0]):>5}")
    better = sum(_median(one["suggested"].values()) > _median(one["random"].values()) for one in all_)
    return "\n".join([*lines, f"suggested is better for {better} of {len(found)} seeds"])


def _write(found: Mapping[int, dict[str, Scores]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("seed", "micrograph", *ARMS))
        for seed, scores in found.items():
            writer.writerows((seed, name, *(scores[arm][name] for arm in ARMS)) for name in scores["start"])


if __name__ == "__main__":
    sys.exit(main())
