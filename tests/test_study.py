"""The study on tiny synthetic micrographs in the published layout: every step by the bundle's own configs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st
from ignite.engine import Engine, Events
from mlflow import MlflowClient
from monai.bundle import ConfigParser
from PIL import Image

import carde_monai.study
from carde_monai import bundles, datalist, replacing, study_steps
from carde_monai.baseline import segment
from carde_monai.calibration import LogitHistogram, reliability
from carde_monai.errors import InputError
from carde_monai.evaluation import tile_dice
from carde_monai.handlers.study import MaskWriter, PooledReliability
from carde_monai.locking import claimed
from carde_monai.published_layout import write_published
from carde_monai.study import study
from carde_monai.study_baseline import read_frame, score_baseline, tile_table
from carde_monai.study_figures import learning_curve, training_curves
from carde_monai.study_lists import (
    annotated,
    leak,
    tile_name,
    tile_place,
    write_curve,
    write_folds,
    write_list,
    write_tiles,
)
from carde_monai.study_protocols import Size
from carde_monai.study_report import Study, write
from carde_monai.study_results import pooled
from carde_monai.study_steps import Training, Workbench

BUNDLE = REPOSITORY / "bundle"
TILE = 32
TINY: dict[str, Any] = {
    "max_epochs": 1,
    "epoch_length": 4,
    "batch_size": 8,
    "roi_size": [64, 64],
    "window_size": [128, 128],
    "warmup_epochs": 1,
    "amp": False,  # figures of one step are held against those of another
}
ARGUMENTS: dict[str, Any] = {"quick": True, "tile": TILE, "overrides": TINY}


@pytest.fixture(scope="module", autouse=True)
def one_fold() -> Iterator[None]:
    """Two would show the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carde_monai.study, "QUICK_SIZE", Size(folds=3, folds_run=1, seeds=1, only_ends=True))
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive as it unpacks: four micrographs and one in hold-out, raw folders beside them."""
    folder = tmp_path_factory.mktemp("published")
    write_published(folder, 4, 1, (160, 208), both_labels=True, whole=True)
    return folder


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a hyperparameter search leaves that the study reads."""
    folder = tmp_path_factory.mktemp("searched")
    table = pd.DataFrame({"state": ["complete", "failed", "complete"], "val_loss": [0.2, None, 0.1]})
    table.to_csv(folder / "trials.csv", index=False)
    Image.new("L", (8, 8)).save(folder / "slice.png")
    return folder


@pytest.fixture(scope="module")
def done(one_fold: None, published: Path, searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "out"
    study(published, out, tuning=searched, **ARGUMENTS)
    return out


def row(out: Path, protocol: str, data: str, method: str, quantity: str) -> pd.Series:
    table = pd.read_csv(out / "results.csv").set_index(["protocol", "data", "method", "quantity"])
    return table.loc[(protocol, data, method, quantity)]


def test_results_stand_beside_the_published_ones(done: Path) -> None:
    for protocol in ("paper", "honest"):
        dice = row(done, protocol, "test tiles", "network", "median Dice")
        assert 0 <= dice["low"] <= dice["value"] <= dice["high"] <= 1
        assert tuple(dice[["published", "published_low", "published_high"]]) == (0.98, 0.964, 0.991)
        assert row(done, protocol, "test tiles", "baseline", "median Dice")["published"] == 0.85
        assert row(done, protocol, "hold-out micrographs", "baseline", "median Dice")["n"] == 1
        for method, ece in (
            ("network", 0.00181),
            ("temperature scaling", 0.00135),
            ("mean variance", 0.00189),
        ):
            assert row(done, protocol, "test", method, "ECE")["published"] == ece
            assert row(done, protocol, "test", method, "NLL")["value"] > 0
        assert row(done, protocol, "validation", "temperature scaling", "temperature")["published"] == 1.87117
    # 3 x 4 x 6 + 5 x 6 tiles (carde cuts three rows of one steel), of which a tenth is for testing
    assert row(done, "paper", "test tiles", "network", "median Dice")["n"] == 10
    # the first of three folds holds two of four micrographs
    assert row(done, "honest", "test micrographs", "network", "median Dice")["n"] == 2
    assert row(done, "search", "validation", "search", "Dice loss")["value"] == 0.1


def test_tables_figures_and_report_are_written(done: Path) -> None:
    kinds = ("training", "tiles", "box_plot", "reliability", "holdout")
    names = {f"{protocol}_{kind}.png" for protocol in ("paper", "honest") for kind in kinds}
    names |= {"honest_learning_curve.png", "search_slices.png"}
    assert {path.name for path in (done / "figures").iterdir()} == names
    report = (done / "study.md").read_text()
    for told in ("Quick mode", "stand on both sides", "no micrograph stands on two sides", "1.871"):
        assert told in report
    for name in names:
        assert f"(figures/{name})" in report
    content = json.loads((done / "study.json").read_text())
    assert len(content["results"]) == len(pd.read_csv(done / "results.csv"))
    curve = pd.read_csv(done / "learning_curve.csv")
    assert list(curve["micrographs"]) == [1, 2] and curve["hold-out tiles, network"].notna().all()


def test_trainings_and_summary_are_runs_of_one_experiment(done: Path) -> None:
    client = MlflowClient(f"sqlite:///{done}/mlflow.db")
    experiment = client.get_experiment_by_name("study")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {path.name for path in (done / "runs").iterdir()} | {"summary"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {"calibration/temperature", "evaluation/test_ece_raw"} <= set(runs["paper_unet"].data.metrics)
    files = {artifact.path for artifact in client.list_artifacts(runs["summary"].info.run_id)}
    assert {"study.md", "results.csv", "study.json", "figures"} <= files
    assert "paper/test tiles/network/median Dice" in runs["summary"].data.metrics


def test_raw_calibration_figures_are_those_before_the_temperature(done: Path, tmp_path: Path) -> None:
    models = done / "runs" / "honest_fold0" / "models"
    settings = {"dataset_dir": str(done / "honest" / "folds"), "fold": 0, "sections": ["validation"]}
    settings |= {"ckpt_dir": str(models), "output_dir": str(tmp_path), "tracking_uri": None}
    settings |= {key: TINY[key] for key in ("window_size", "amp")}
    bundles.run(BUNDLE, ["train", "evaluate", "study"], settings, training=True)
    fitted = json.loads((models / "calibration.json").read_text())
    found = json.loads((tmp_path / "reliability.json").read_text())
    assert found["temperature"] == fitted["total_temperature"] != 1
    for kind, moment in (("raw", "before"), ("scaled", "after")):
        figures = found["sections"]["validation"][kind]
        assert figures["nll"] == pytest.approx(fitted[moment]["nll"], rel=1e-3)
        assert figures["brier"] == pytest.approx(fitted[moment]["brier"], rel=1e-3)
    assert len(list((tmp_path / "masks").glob("*_network.png"))) == 1


def test_what_is_done_is_not_done_again(done, published, searched, monkeypatch) -> None:
    before = (done / "results.csv").read_text()

    def run(_bundle: Path, configs: list[str], overrides: dict[str, Any], training: bool) -> None:
        raise RuntimeError(f"{configs} {overrides['max_epochs']}")

    monkeypatch.setattr(study_steps.bundles, "run", run)
    study(published, done, tuning=searched, **ARGUMENTS)
    assert (done / "results.csv").read_text() == before
    with pytest.raises(RuntimeError, match=r"\['train', 'tiles'\] 2"):
        study(published, done, **ARGUMENTS | {"overrides": TINY | {"max_epochs": 2, "tracking_uri": None}})


def test_a_second_run_is_refused_and_nothing_is_lost(done, published, monkeypatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise RuntimeError("a step has begun")

    monkeypatch.setattr(study_steps.bundles, "run", run)
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()}
    other = ARGUMENTS | {"overrides": TINY | {"max_epochs": 2}}
    with claimed(done), pytest.raises(InputError, match="another run of carde-monai is writing there"):
        study(published, done, **other)
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()} == before


def _history(out: Path) -> Path:
    file = out.parent / "training.csv"
    file.write_text("epoch,loss,val_loss,val_mean_dice\n1,0.5,0.4,0.6\n")
    return file


def _evaluator(handler: Any) -> Engine:
    engine = Engine(lambda *_: None)
    engine.state.batch = [{"name": "a", "section": "test"}]
    engine.state.output = [{"pred": torch.ones(1, 4, 4)}]
    handler.attach(engine)
    return engine


LEARNED = pd.DataFrame({"seed": [0], "micrographs": [1], "test tiles, network": [0.5]})
LEARNED = LEARNED.assign(**{f"{data}, baseline": 0.4 for data in ("test tiles", "hold-out micrographs")})
LEARNED = LEARNED.assign(**{"hold-out micrographs, network": 0.3})
WRITERS = {
    "report": lambda out, _: write(Study({"data": "x"}), out),
    "list": lambda out, _: write_list(out, {"training": []}),
    "stamp": lambda out, _: Workbench(out, BUNDLE).once(out / "a.done.json", {}, lambda: None),
    "baseline": lambda out, data: score_baseline(data, out, TILE),
    "trainings": lambda out, _: training_curves({"a": _history(out)}, out / "a.png", "a"),
    "learning curve": lambda out, _: learning_curve(LEARNED, out / "a.png"),
    "masks": lambda out, _: _evaluator(MaskWriter(out)).fire_event(Events.ITERATION_COMPLETED),
    "reliability": lambda out, data: _evaluator(
        PooledReliability(out / "a.json", data / "datalist.json")
    ).fire_event(Events.COMPLETED),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_is_cut_short_is_not_there(writer, dataset, tmp_path, monkeypatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(replacing.os, "replace", stop)
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        WRITERS[writer](tmp_path / "out", dataset)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_an_interrupted_step_is_done_again(tmp_path: Path) -> None:
    bench, calls = Workbench(tmp_path, BUNDLE), []

    def act(fail: bool) -> None:
        calls.append(fail)
        if fail:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.once(tmp_path / "a" / "x.done.json", {"k": (1, 2)}, lambda: act(True))
    for _ in range(2):
        bench.once(tmp_path / "a" / "x.done.json", {"k": (1, 2)}, lambda: act(False))
    assert calls == [True, False]


@given(st.from_regex(r"[A-Za-z0-9_ .-]{1,20}", fullmatch=True), st.integers(0, 999), st.integers(0, 999))
def test_a_tile_knows_its_place_by_its_name(frame: str, row: int, column: int) -> None:
    assert tile_place(tile_name(frame, row, column)) == (frame, row, column)


def test_tiles_are_windows_of_the_normalised_frame(dataset, tmp_path) -> None:
    write_tiles(dataset, tmp_path, BUNDLE, ["train"], TILE, seed=1)
    parser = ConfigParser()
    parser.read_config(bundles.config_files(BUNDLE, ["train", "tiles"]))
    parser["dataset_dir"], parser["roi_size"] = str(tmp_path), [TILE, TILE]
    tiles = [item for section in datalist.SPLIT for item in datalist.load(tmp_path, section)]
    assert len(tiles) == 5 * 5 * 6
    assert datalist.counts(tmp_path) | {"training": 120, "validation": 15, "test": 15} == datalist.counts(
        tmp_path
    )
    whole = ConfigParser()
    whole.read_config(bundles.config_files(BUNDLE, ["train"]))
    frames = {item["name"]: item for item in annotated(dataset)[0]}
    for tile in (tiles[0], tiles[-1]):
        name, row, column = tile_place(tile["name"])
        item = {key: str(dataset / frames[name][key]) for key in ("image", "label")}
        frame = whole.get_parsed_content("validate#preprocessing")(item)
        mine = parser.get_parsed_content("validate#preprocessing")(tile)
        window = np.s_[:, row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        for key in ("image", "label"):
            np.testing.assert_array_equal(mine[key].numpy(), frame[key].numpy()[window])
        assert mine["image"].affine[0, 1] == pytest.approx(-0.00698) or "anp" in name


def test_a_tile_is_trained_on_whole_and_augmented(dataset, tmp_path) -> None:
    write_tiles(dataset, tmp_path, BUNDLE, ["train"], TILE)
    parser = ConfigParser()
    parser.read_config(bundles.config_files(BUNDLE, ["train", "tiles"]))
    parser["dataset_dir"], parser["roi_size"] = str(tmp_path), [TILE, TILE]
    transform = parser.get_parsed_content("train#preprocessing")
    item = transform(datalist.load(tmp_path, "training")[0])
    assert item["image"].shape == (2, TILE, TILE)
    batch = {key: torch.stack([item[key]] * 4) for key in ("image", "label")}
    images, _ = parser.get_parsed_content("train#trainer").prepare_batch(batch, torch.device("cpu"), False)
    assert images.shape == (4, 2, TILE, TILE)
    assert not any(torch.equal(image, item["image"]) for image in images[:2])


def test_leak_by_hand(tmp_path: Path) -> None:
    names = {
        "training": ["a_r00c00", "b_r05c05"],
        "validation": ["a_r00c01"],
        "test": ["a_r01c01", "a_r03c03", "c_r00c00"],
    }
    content = {k: [{"image": n, "label": n, "name": n} for n in v] for k, v in names.items()}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    known = leak(tmp_path)
    assert known["test"] == 3
    assert known["test_of_training_micrographs"] == 2, "c has no tile in training"
    assert known["test_touching_training"] == 1, "only (1, 1) has a corner in common with (0, 0)"


def test_lists_of_the_honest_protocol_keep_micrographs_apart(dataset, tmp_path) -> None:
    folds = write_folds(dataset, tmp_path / "folds", 5, seed=0)
    tested = []
    for fold in range(5):
        sections = {
            name: {one["name"] for one in datalist.load(folds, name, fold)} for name in datalist.SPLIT
        }
        assert sum(map(len, sections.values())) == len(set.union(*sections.values())) == 5
        tested += sections["test"]
    assert sorted(tested) == [item["name"] for item in annotated(dataset)[0]], "leave one out"
    points = write_curve(dataset, tmp_path / "curve", seeds=2)
    assert [(point.seed, len(point.names)) for point in points] == [(s, n) for s in (0, 1) for n in (1, 2, 3)]
    for small, large in itertools.pairwise(points[:3]):
        assert large.names[: len(small.names)] == small.names
        assert datalist.load(small.data, "test") == datalist.load(large.data, "test")
    with pytest.raises(InputError, match="ask for fewer"):
        write_folds(dataset, tmp_path / "folds", 6, seed=0)


def test_tiles_of_the_baseline_are_cut_from_whole_frames_of_raw_greys(dataset, tmp_path) -> None:
    score_baseline(dataset, tmp_path, TILE)
    item = annotated(dataset)[0][0]
    image, label = read_frame(dataset, item)
    assert image.dtype == np.uint8 and image.shape == (2, 160, 208)
    mask = segment(image[0], image[1])
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "masks" / f"{item['name']}_baseline.png")), 255 * mask
    )
    table = tile_table(tmp_path)
    assert len(table) == 7 * 30
    for place, dice in np.ndenumerate(tile_dice(mask, label, TILE)):
        assert table[tile_name(item["name"], *place)] == pytest.approx(dice, abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_pooled_evaluations_are_one_of_all_pixels(tmp_path_factory, seed: int, parts: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    whole, files = LogitHistogram(), []
    for part in range(parts):
        logits = torch.randint(-60, 60, (200,), generator=generator) / 10 + 0.05  # one value a cell
        labels = (torch.rand(200, generator=generator) < torch.sigmoid(logits / 2)).long()
        labels[:2] = torch.tensor([0, 1])
        own = LogitHistogram()
        own.update(logits, labels)
        whole.update(logits, labels)
        figures = reliability(own, 1.0, 30)
        content = {"bins": 30, "sections": {"test": {"raw": vars(figures)}}}
        files.append(tmp_path_factory.getbasetemp() / f"reliability_{part}.json")
        files[-1].write_text(json.dumps(content))
    together, found = reliability(whole, 1.0, 30), pooled(files, "test", "raw")
    assert found["pixels"] == 200 * parts
    assert found["ECE"] == pytest.approx(together.ece) and found["NLL"] == pytest.approx(together.nll)
    for ours, theirs in zip(found["points"], together.points, strict=True):
        assert ours == pytest.approx(theirs)
    assert pooled(files, "holdout", "raw") is None


def test_mean_variance_has_its_own_settings(tmp_path: Path) -> None:
    settings = {"warmup_epochs": 3, "draws": 10, "max_epochs": 5, "window_size": [96, 96]}
    bench = Workbench(tmp_path, BUNDLE, overrides=settings, tile=32)
    plain, varied, tiles = (
        bench._settings(Training("x", tmp_path, mean_variance=one, tiles=two))
        for one, two in ((False, False), (True, False), (False, True))
    )
    assert "warmup_epochs" not in plain and "draws" not in plain and plain["max_epochs"] == 5
    assert varied["warmup_epochs"] == 3 and varied["draws"] == 10
    assert tiles["roi_size"] == [32, 32] and "window_size" not in tiles


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"protocol": "papre"}, "choose from paper, honest"),
        ({"quick": 3}, "takes no value"),
        ({"tile": 8}, "--tile 8: does not fit; give a whole number from 16"),
        ({"folds": 2}, "whole number from 3"),
        ({"seeds": True}, "whole number from 1"),
        ({"trials": -1}, "whole number from 0"),
        ({"tuning": "nowhere"}, "holds no slice.png"),
        ({"overrides": {"max_epoch": 3}}, "did you mean --max_epochs"),
        ({"overrides": {"ckpt_dir": "x"}}, "set by the study itself"),
        ({"configs": "unnet"}, "no such file"),
    ],
)
def test_mistakes_are_said_before_any_work(wrong, message, dataset, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        study(dataset, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_a_search_of_its_own_varies_what_is_searched(dataset, tmp_path, monkeypatch) -> None:
    bench = Workbench(tmp_path, BUNDLE, overrides={"learning_rate": 0.1, "max_epochs": 2, "draws": 4})
    settings = bench.search_settings()
    assert settings["max_epochs"] == 2 and not {"learning_rate", "draws", "features"} & set(settings)
    assert settings["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"
