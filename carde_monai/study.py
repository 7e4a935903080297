"""The publication's study again, and an honest one: what ``carde-monai study`` does.

Everything is a training, calibration or evaluation by the bundle's own configs; this says which ones.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from carde_monai import bundles, datalist
from carde_monai.errors import Failure, InputError
from carde_monai.locking import claimed
from carde_monai.prepare import prepare
from carde_monai.replacing import replace_file
from carde_monai.study_figures import draw
from carde_monai.study_lists import annotated, write_curve
from carde_monai.study_protocols import Size, honest, paper
from carde_monai.study_report import Study, record, write
from carde_monai.study_results import COLUMNS, PUBLISHED
from carde_monai.study_steps import Workbench

PROTOCOLS = {"paper": paper, "honest": honest}
TILE = 128  # edge of a tile in pixels, as published
# Minutes on two cores with small micrographs: it shows that everything works, not how well.
QUICK: dict[str, Any] = {
    "max_epochs": 6,
    "epoch_length": 16,
    "batch_size": 16,
    "roi_size": [96, 96],
    "crops_per_micrograph": 4,
    "learning_rate": 0.003,
    "lr_patience": 1,
    "warmup_epochs": 2,
}
QUICK_SIZE = Size(folds=3, folds_run=2, seeds=1, only_ends=True)
QUICK_TILE, QUICK_TRIALS = 64, 3
QUICK_SEARCH: dict[str, Any] = {
    "max_epochs": 2,
    "search_space#features": {"choices": [8, 16]},
    "search_space#depth": {"low": 2, "high": 3},
}
QUICK_REMARK = (
    "Quick mode: short trainings, few folds, small tiles. It shows that everything works, not how well."
)


def study(
    data: str | Path,
    out: str | Path,
    protocol: str | None = None,
    quick: bool = False,
    folds: int | str | None = None,
    seeds: int | None = None,
    tile: int | None = None,
    pixel_size: float | str | None = None,
    tuning: str | Path | None = None,
    trials: int | None = None,
    bundle: str | Path | None = None,
    configs: str | Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Study:
    """Prepare the published data set, run one or both protocols, and write tables, figures and a report.

    What was done already is not done again: a step is known by its ``<step>.done.json`` with the same
    settings, see `study_steps.Workbench`.

    Args:
        data: the data set as it unpacks, or one that `prepare` wrote.
        out: folder to write to; made if missing.
        protocol: ``paper`` or ``honest``; both if None.
        quick: short trainings, few folds and points.
        folds: of the honest protocol, or ``loo`` for leave-one-micrograph-out; all of them are run.
        seeds: repetitions of the learning curve.
        tile: edge of a tile in pixels.
        pixel_size: as in `prepare`.
        tuning: folder that ``carde-monai tune`` wrote, for the figure of the search.
        trials: size of a search of the study's own, if there is none in ``tuning``; 0 for none.
        bundle: root folder of the bundle, which is only read; the packaged one if None.
        configs: overlays on train.json, such as unet.
        overrides: settings of train.json and mean_variance.json, of all trainings.

    Raises:
        InputError: an argument or the data set cannot be used, or another run writes to ``out``.
    """
    out = Path(out)
    tile = tile if tile is not None else QUICK_TILE if quick else TILE
    configs = configs.split(",") if isinstance(configs, str) else list(configs or ())
    settings = (QUICK if quick else {}) | dict(overrides or {})
    root = Path(bundle) if bundle else bundles.packaged_bundle()
    bench = Workbench(out, root, [name for name in configs if name], settings, tile)
    _check(protocol, quick, tuning, out)
    parts = None if folds == "loo" else folds
    _check_numbers(tile=(tile, 16), folds=(parts, 3), seeds=(seeds, 1), trials=(trials, 0))
    bench.check()
    with claimed(out):  # the steps claim their own folders, all below it
        prepared = _prepared(bench, Path(data), pixel_size)
        pool, holdout = annotated(prepared)
        size = _size(quick, len(pool) if folds == "loo" else folds, seeds)
        facts = {"data": str(data), "annotated micrographs": str(len(pool)), "hold-out": str(len(holdout))}
        facts |= {"tile": f"{tile} px", "folds": str(size.folds)}
        facts["digest of the data"] = datalist.digest(prepared)
        result = Study(facts, remarks=[QUICK_REMARK] if quick else [], failures=_failures(out))
        pixel_sizes = _pixel_sizes(prepared)
        for name in [protocol] if protocol else PROTOCOLS:
            found = PROTOCOLS[name](bench, prepared, size)
            result.findings.append(found)
            result.figures += draw(found, prepared, out / "figures", tile, pixel_sizes)
        _search(bench, result, prepared, Path(tuning) if tuning else None, trials, quick)
        files = write(result, out)
        record(result, files, bench)
        print(f"\n{files[0].read_text(encoding='utf-8')}\nWritten to {out}: study.md, results.csv, figures")
    return result


def _size(quick: bool, folds: Any, seeds: int | None) -> Size:
    usual = QUICK_SIZE if quick else Size()
    run = usual.folds_run if folds is None else None
    return Size(folds or usual.folds, run, seeds or usual.seeds, usual.only_ends)


def _check(protocol: str | None, quick: bool, tuning: str | Path | None, out: Path) -> None:
    if protocol is not None and protocol not in PROTOCOLS:
        raise InputError(f"--protocol {protocol}", "is none", f"choose from {', '.join(PROTOCOLS)}")
    if not isinstance(quick, bool):
        raise InputError(f"--quick {quick}", "takes no value", "write --quick")
    if tuning is not None and not (Path(tuning) / "slice.png").is_file():
        raise InputError(tuning, "holds no slice.png", "name the folder that carde-monai tune wrote")
    if out.is_file():
        raise InputError(out, "is a file", "choose another folder")


def _check_numbers(**given: tuple[Any, int]) -> None:
    """Raise InputError for one that is given and no whole number from its least."""
    for name, (value, least) in given.items():
        if value is not None and (type(value) is not int or value < least):
            raise InputError(f"--{name} {value}", "does not fit", f"give a whole number from {least}")


def _failures(out: Path) -> list[Failure]:
    """What `prepare` could not read, now or in an earlier call."""
    file = out / "data" / "failures.csv"
    return [Failure(*row) for row in pd.read_csv(file).to_numpy().tolist()] if file.is_file() else []


def _prepared(bench: Workbench, data: Path, pixel_size: float | str | None) -> Path:
    """The prepared data set: ``data`` itself if it is one, else what `prepare` makes of it."""
    if (data / datalist.FILE).is_file():
        return data
    dest = bench.out / "data"
    facts = {"source": str(data.absolute()), "pixel_size": pixel_size}

    step = bench.out / "prepare.done.json"
    bench.once(step, facts, lambda: prepare(data, dest, pixel_size=pixel_size))
    return dest


def _pixel_sizes(prepared: Path) -> dict[str, float | None]:
    known = pd.read_json(prepared / datalist.FILE, typ="series").get("micrographs", {})
    return {name: facts.get("pixel_size_um") for name, facts in known.items()}


def _search(
    bench: Workbench, result: Study, prepared: Path, folder: Path | None, trials: int | None, quick: bool
) -> None:
    """Add the search's best loss and its slices, from ``folder`` or from a search of ``trials`` trials."""
    trials = trials if trials is not None else QUICK_TRIALS if quick else 0
    if folder is None and trials:
        from carde_monai.tuning import tune

        lists = write_curve(prepared, bench.out / "search" / "lists", 1)  # of which the last is the largest
        settings = bench.search_settings() | (QUICK_SEARCH if quick else {})
        facts = json.dumps([settings, datalist.digest(lists[-1].data)], sort_keys=True)
        folder = bench.out / "search" / hashlib.sha256(facts.encode()).hexdigest()[:8]
        print(f"\n== search: {trials} trials", flush=True)
        tune(lists[-1].data, trials, folder, bench.bundle, overrides=settings)  # goes on where it was
    if folder is None:
        result.remarks.append(
            "No hyperparameter search: give --trials N, or --tuning FOLDER of carde-monai tune."
        )
        return
    table = pd.read_csv(folder / "trials.csv")
    loss = table.loc[table["state"] == "complete", "val_loss"].min()
    key = ("validation", "search", "Dice loss")
    row = ("search", *key, float(loss), None, None, len(table), "", *PUBLISHED[key])
    result.search.append(dict(zip(COLUMNS, row, strict=True)))
    result.figures.append(bench.out / "figures" / "search_slices.png")
    replace_file(result.figures[-1], lambda part: shutil.copyfile(folder / "slice.png", part))
