"""The two protocols of a study: the publication's, on tiles split at random, and one split by micrograph."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from carde_monai import datalist
from carde_monai.study_baseline import score_baseline, tile_table, with_filled
from carde_monai.study_lists import (
    CurvePoint,
    annotated,
    leak,
    tile_place,
    write_curve,
    write_folds,
    write_tiles,
)
from carde_monai.study_results import (
    BASELINE,
    HOLDOUT_FRAMES,
    HOLDOUT_TILES,
    NETWORK,
    TEST_FRAMES,
    TEST_TILES,
    Findings,
    frame_scores,
    tile_scores,
    with_baseline,
    with_variance,
)
from carde_monai.study_steps import Training, Workbench

HOLDOUT = "holdout"


@dataclass(frozen=True)
class Size:
    """How large a study is: ``folds`` of the honest protocol, of which the first ``folds_run`` are tested,
    ``seeds`` of the learning curve, of whose sizes ``only_ends`` are trained, and the seed of the splits."""

    folds: int = 4
    folds_run: int | None = None
    seeds: int = 3
    only_ends: bool = False
    seed: int = 0


def paper(bench: Workbench, data: Path, size: Size) -> Findings:
    """Tiles of all annotated micrographs, split 80/10/10 at random; hold-out frames apart.

    Network with temperature scaling, and mean variance, train and are tested on tiles; the baseline's tiles
    are cut from its masks of whole frames.
    """
    found = Findings("paper")
    tiles, base = bench.out / "paper" / "tiles", bench.out / "baseline"
    _cut_tiles(bench, data, tiles, size.seed)
    facts = {"data": datalist.digest(data), "tile": bench.tile}
    bench.once(base / "baseline.done.json", facts, lambda: score_baseline(data, base, bench.tile))
    network = Training("paper_unet", tiles, tiles=True)
    variance = Training("paper_mean_variance", tiles, tiles=True, mean_variance=True)
    results, frames = {}, {}
    for training in (network, variance):
        bench.train(training)
        if training is network:
            bench.calibrate(training)
        results[training.name] = bench.evaluate(training, ["test"], "test_tiles")
        if annotated(data)[1]:
            frames[training.name] = bench.evaluate(training, [HOLDOUT], HOLDOUT, data)
        what = "mean variance" if training.mean_variance else "U-Net"
        found.histories[what] = bench.folder(training) / "eval" / "training.csv"
    scores = with_variance(*(_single_tiles(folder) for folder in results.values()))
    found.tiles = with_filled(with_baseline(scores, tile_table(base)), data, bench.tile)
    found.add_dice(TEST_TILES, found.tiles)
    found.masks = {
        name: [results[network.name] / "masks", base / "masks"] for name in set(found.tiles["name"])
    }
    if frames:
        _add_holdout(found, [frames[network.name]], [frames[variance.name]])
    found.add_temperature([_temperature(results[network.name])])
    _add_calibration(found, [results[network.name]], [results[variance.name]], "test")
    if frames:
        _add_calibration(found, [frames[network.name]], [frames[variance.name]], HOLDOUT)
    found.notes = [*_leak_notes(tiles, bench.tile), _empty_note(found.tiles)]
    return found


def honest(bench: Workbench, data: Path, size: Size) -> Findings:
    """Cross-validation by micrograph on whole frames, the hold-out, and a learning curve."""
    found = Findings("honest")
    folder = bench.out / "honest"
    folds = write_folds(data, folder / "folds", size.folds, size.seed)
    plain, varied, temperatures = [], [], []
    sections = ["test", HOLDOUT]
    run = range(size.folds)[: size.folds_run]
    for fold in run:
        network = Training(f"honest_fold{fold}", folds, fold=fold)
        bench.train(network)
        bench.calibrate(network)
        plain.append(bench.evaluate(network, sections, "evaluation"))
        temperatures.append(_temperature(plain[-1]))
        variance = Training(f"honest_mean_variance_fold{fold}", folds, mean_variance=True, fold=fold)
        bench.train(variance)
        varied.append(bench.evaluate(variance, sections, "evaluation"))
        for what, training in (("U-Net", network), ("mean variance", variance)):
            found.histories[f"{what}, fold {fold}"] = bench.folder(training) / "eval" / "training.csv"
        for item in datalist.load(folds, "test", fold):
            found.masks[item["name"]] = [plain[-1] / "masks"]
    scores = with_variance(tile_scores(plain, "test"), tile_scores(varied, "test"))
    found.tiles = with_filled(scores, data, bench.tile)
    found.add_dice(TEST_TILES, found.tiles)
    found.add_dice(TEST_FRAMES, with_variance(frame_scores(plain, "test"), frame_scores(varied, "test")))
    if annotated(data)[1]:
        _add_holdout(found, plain, varied)
    found.add_temperature(temperatures)
    _add_calibration(found, plain, varied, "test")
    if annotated(data)[1]:
        _add_calibration(found, plain, varied, HOLDOUT)
    found.learning = _learning_curve(bench, write_curve(data, folder / "curve", size.seeds, size.only_ends))
    found.notes = [*_fold_notes(size.folds, len(run), len(annotated(data)[0])), _empty_note(found.tiles)]
    return found


def _cut_tiles(bench: Workbench, data: Path, tiles: Path, seed: int) -> None:
    configs = ["train", *bench.configs]

    def cut() -> None:
        shutil.rmtree(tiles, ignore_errors=True)
        write_tiles(data, tiles, bench.bundle, configs, bench.tile, seed)

    facts = bench.facts(configs, {"tile": bench.tile, "seed": seed}, data)
    bench.once(tiles.parent / "tiles.done.json", facts, cut)


def _single_tiles(folder: Path) -> pd.DataFrame:
    """Scores of an evaluation whose items are tiles: name (of the micrograph), row, column, network."""
    table = frame_scores([folder], "test")
    places = pd.DataFrame([tile_place(name) for name in table["name"]], columns=["name", "row", "column"])
    return places.assign(**{NETWORK: table[NETWORK]})


def _add_holdout(found: Findings, plain: Sequence[Path], varied: Sequence[Path]) -> None:
    frames = with_variance(frame_scores(plain, HOLDOUT), frame_scores(varied, HOLDOUT))
    found.holdout = frames
    found.add_dice(HOLDOUT_FRAMES, frames)
    found.add_dice(HOLDOUT_TILES, with_variance(tile_scores(plain, HOLDOUT), tile_scores(varied, HOLDOUT)))
    found.masks |= {name: [plain[0] / "masks"] for name in frames["name"]}


def _add_calibration(found: Findings, plain: Sequence[Path], varied: Sequence[Path], section: str) -> None:
    network, variance = ([folder / "reliability.json" for folder in folders] for folders in (plain, varied))
    found.add_calibration(network, variance, section)


def _temperature(evaluation: Path) -> float:
    return float(pd.read_json(evaluation / "reliability.json", typ="series")["temperature"])


def _learning_curve(bench: Workbench, points: Sequence[CurvePoint]) -> pd.DataFrame:
    """A row a training: seed, micrographs (their number), names, and medians of the Dice."""
    rows = []
    for point in points:
        training = Training(f"curve_{point.data.name}", point.data)
        bench.train(training)
        folder = bench.evaluate(training, ["test", HOLDOUT], "evaluation")
        row: dict[str, object] = {"seed": point.seed, "micrographs": len(point.names)}
        for data, scores in (
            (TEST_TILES, tile_scores([folder], "test")),
            (TEST_FRAMES, frame_scores([folder], "test")),
            (HOLDOUT_TILES, tile_scores([folder], HOLDOUT)),
            (HOLDOUT_FRAMES, frame_scores([folder], HOLDOUT)),
        ):
            row |= {f"{data}, {method}": scores[method].median() for method in (NETWORK, BASELINE)}
        rows.append(row | {"trained on": " ".join(point.names)})
    return pd.DataFrame(rows)


def _leak_notes(tiles: Path, tile: int) -> list[str]:
    known = leak(tiles)
    return [
        f"{known['training']} tiles of {tile} px are for training, {known['validation']} for validation and "
        f"{known['test']} for test, drawn at random from all tiles of all micrographs, as published.",
        f"Tiles of one micrograph therefore stand on both sides of this split: of {known['test']} test "
        f"tiles, {known['test_of_training_micrographs']} are of a micrograph that the network was trained "
        f"on, and {known['test_touching_training']} touch a training tile.",
        "Grains, noise and the annotator's hand are those of the training: the scores say how well the "
        "network fills in a micrograph of which it knows four fifths. How well it does on a new micrograph "
        "is what the honest protocol and the hold-out say.",
        "Rows and columns that fill no tile are left out here, as in the publication; the honest protocol "
        "and the hold-out take whole frames.",
    ]


def _empty_note(tiles: pd.DataFrame) -> str:
    empty = int((~tiles["filled"]).sum())
    return f"{empty} of {len(tiles)} test tiles hold no carbide: there Dice is 1 for an empty mask, else 0."


def _fold_notes(folds: int, run: int, micrographs: int) -> list[str]:
    kind = "leave-one-micrograph-out" if folds == micrographs else f"{folds} folds"
    some = "" if run == folds else f" (only {run} of them were run)"
    return [
        f"{micrographs} micrographs, {kind}{some}: no micrograph stands on two sides of a split; the fold "
        "before the test fold is for validation.",
        "Networks and baseline segment whole frames; tiles are cut from the masks of the frames.",
        "A micrograph is tested once, by the network that has not seen it; on the hold-out, the score of a "
        "micrograph is the mean over the networks of the folds.",
    ]
