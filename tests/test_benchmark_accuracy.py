"""The accuracy benchmark: its arithmetic on results made by hand, its tasks, and one tiny run of it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from PIL import Image

from carde_monai.synthetic import synthesize

TINY = {"max_epochs": 1, "epoch_length": 1, "roi_size": [64, 64], "batch_size": 2, "window_size": [96, 128]}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of the scripts, which are no installed package."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    return lambda name: importlib.import_module(name)


def finished(out: Path, task: str, start: str, seed: int, fold: int | None = None, **scores: object) -> None:
    """The result of a run: ``scores`` by section."""
    images = int(task.removeprefix("ni")) if task.startswith("ni") else 16
    facts = {"task": task, "fold": fold, "start": start, "seed": seed, "images": images, "minutes": 2.0}
    folder = out / f"{task}{'' if fold is None else fold}_{start}_seed{seed}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(facts | {"made_from": {}, "sections": scores}))


def lines_of(summary: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in summary.splitlines() if "|" in line]


def test_the_summary_is_mean_and_spread_over_seeds_and_folds(module, tmp_path: Path) -> None:
    results = module("benchmarks.accuracy.results")
    for seed, iou in enumerate((0.95, 0.96, 0.97)):
        finished(tmp_path, "ni10", "shipped", seed, test={"n": 4, "iou": iou}, holdout={"n": 2, "iou": 0.9})
    finished(tmp_path, "ni10", "scratch", 0, test={"n": 4, "iou": 0.9})
    for fold, seed, iou in ((0, 0, 0.5), (0, 1, 0.7), (1, 0, 0.7), (1, 1, 0.9)):
        finished(tmp_path, "uhcs", "scratch", seed, fold, test={"n": 4, "iou": 0.8, "iou_1": iou})
    table = results.collect(tmp_path)
    assert table["task"].tolist() == ["ni10"] * 7 + ["uhcs"] * 4
    found = lines_of(results.summary(results.read(tmp_path)))
    assert found == lines_of(results.summary(table))
    assert found[0][:6] == ["task", "images", "start", "tested on", "micrographs", "IoU"]
    assert found[2:5] == [
        ["ni10", "10", "scratch", "val", "4", "0.9000", "2.0", "0", "1"],
        ["ni10", "10", "shipped", "val", "4", "0.9600 ± 0.0100", "2.0", "0, 1, 2", "3"],
        ["ni10", "10", "shipped", "other", "2", "0.9000 ± 0.0000", "2.0", "0, 1, 2", "3"],
    ]
    assert found[5][5:7] == ["IoU", "cementite network"]
    # deviations -0.2, 0, 0, 0.2 from 0.7: the root of 0.08 / 3
    assert found[7][6:] == ["0.7000 ± 0.1633", "2.0", "0, 1", "4"]


def test_learning_curves_join_the_means_of_the_seeds(module, tmp_path: Path) -> None:
    results = module("benchmarks.accuracy.results")
    for task, values in {"ni1": (0.90, 0.94), "ni10": (0.95, 0.97)}.items():
        for seed, iou in enumerate(values):
            parts = {"test": {"n": 4, "iou": iou}, "holdout": {"n": 2, "iou": iou - 0.1}}
            finished(tmp_path, task, "scratch", seed, **parts)
    finished(tmp_path, "ni4", "shipped", 0, test={"n": 4, "iou": 0.98})
    results.collect(tmp_path)
    assert module("benchmark_accuracy").main(["--plot", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "learning_curves.png").stat().st_size > 10_000
    val, other = results.learning_curves(results.read(tmp_path)).axes
    assert [val.get_title(), other.get_title()] == ["val", "other"] and val.get_xscale() == "log"
    (scratch, shipped), (other_scratch,) = val.lines, other.lines
    assert scratch.get_xdata().tolist() == [1, 10] and shipped.get_xdata().tolist() == [4]
    assert scratch.get_ydata().tolist() == pytest.approx([0.92, 0.96])
    assert other_scratch.get_ydata().tolist() == pytest.approx([0.82, 0.86])
    points = val.collections[0].get_offsets().tolist()
    assert sorted(map(tuple, points)) == [(1, 0.90), (1, 0.94), (10, 0.95), (10, 0.97)]


def images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.png").touch()


def test_tasks_are_nested_by_number_of_training_images(module, tmp_path: Path) -> None:
    tasks = module("benchmarks.accuracy.tasks")
    names = [f"a{number}" for number in range(9)]
    images(tmp_path / "ni-superalloy" / "train" / "images", *reversed(names), tasks.ONE)
    images(tmp_path / "ni-superalloy" / "val" / "images", "v")
    images(tmp_path / "ni-superalloy" / "other" / "images", "o")
    found = list(tasks.tasks(tmp_path, ["ni1", "ni2", "ni4", "ni10"]))
    assert [one.training for one in found] == [(tasks.ONE, *names[: n - 1]) for n in (1, 2, 4, 10)]
    assert {(one.test, one.holdout, one.classes) for one in found} == {(("v",), ("o",), 2)}
    assert [one.validation for one in found] == [tuple(names[n - 1 :]) for n in (1, 2, 4, 10)]


def test_a_fold_of_uhcs_is_tested_on_what_no_other_fold_holds(module, tmp_path: Path, capsys) -> None:
    tasks = module("benchmarks.accuracy.tasks")
    every = [f"uhcs{one}" for members in tasks.UHCS_FOLDS.values() for one in members]
    images(tmp_path / "uhcs" / "images", *every[1:])
    found = list(tasks.tasks(tmp_path, ["uhcs"]))
    assert [one.label for one in found] == ["uhcs1", "uhcs2", "uhcs4", "uhcs5"]
    assert capsys.readouterr().err.startswith(f"uhcs0: skipped, {tmp_path / 'uhcs'} does not hold {every[0]}")
    for one in found:
        assert sorted((*one.training, *one.test)) == sorted(every[4:]) and len(one.test) == 4


def test_absent_data_is_told_and_nothing_done(module, tmp_path: Path, capsys) -> None:
    arguments = ["--data", str(tmp_path / "no"), "--out", str(tmp_path / "out"), "--only", "ni4,uhcs"]
    assert module("benchmark_accuracy").main(arguments) == 0
    told = capsys.readouterr()
    assert told.out == "" and told.err.splitlines() == [
        f"ni4: skipped, there is no {tmp_path / 'no' / 'ni-superalloy'}",
        f"uhcs: skipped, there is no {tmp_path / 'no' / 'uhcs'}",
    ]


@pytest.mark.parametrize(
    "wrong", [["--only", "ni3"], ["--start", "middle"], ["--set", "x=y"], ["--seeds", "0"]]
)
def test_wrong_usage_is_refused(module, wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        module("benchmark_accuracy").main(wrong)
    assert error.value.code == 2


def test_sizes_are_accepted_frame_by_frame(module, tmp_path: Path) -> None:
    """Two frames of 40 carbides: the same sizes in one; in the other all are found twice as large."""
    sizes = [0.05 + 0.001 * number for number in range(40)]
    for kind, factor in (("annotation", 1.0), ("network", 2.0)):
        diameters = {"a": sizes, "b": [size * factor for size in sizes]}
        fields = pd.DataFrame({"micrograph": ["a", "b"], "sample": "test", "pixel_size_um": 0.01})
        columns = ["field_area_um2", "nearest_neighbour_mean_um", "nearest_neighbour_random_um"]
        columns += ["carbides", "carbides_counted", "area_fraction", "intercepts", "scan_length_um"]
        fields[[*columns, "min_area_px"]] = 40
        rows = [(name, "test", size, 1.0) for name, each in diameters.items() for size in each]
        names = ["micrograph", "sample", "equivalent_circle_diameter_um", "border_weight"]
        (tmp_path / kind).mkdir()
        fields.to_csv(tmp_path / kind / "micrographs.csv", index=False)
        pd.DataFrame(rows, columns=names).to_csv(tmp_path / kind / "particles.csv", index=False)
    metrics = {"name": ["a", "b"], "section": "test", "network_dice": [0.8, 0.9], "baseline_dice": [0.5, 0.7]}
    pd.DataFrame(metrics | {"network_object_f1": [1.0, 0.5]}).to_csv(tmp_path / "metrics.csv", index=False)
    scores = module("benchmarks.accuracy.runs").carbide_scores(tmp_path)["test"]
    assert scores == pytest.approx(
        {
            **{"n": 2, "dice": 0.85, "dice_median": 0.85, "baseline_dice": 0.6, "baseline_dice_median": 0.6},
            **{"object_f1": 0.75, "ks_accepted": 0.5},
        }
    )


def test_classes_are_scored_by_micrograph_and_over_all_pixels(module, tmp_path: Path) -> None:
    told = {"micrographs": {"iou": {"mean": 0.8}, "iou_1": {"mean": 0.5}, "dice_1": {"mean": 0.6}}}
    told |= {"n": 2, "pooled": {"iou": 0.85, "iou_1": 0.9, "dice_1": 0.95}}
    (tmp_path / "classes.json").write_text(json.dumps({"test": told}))
    scores = module("benchmarks.accuracy.runs").class_scores(tmp_path)
    assert scores == {
        "test": {"n": 2, "iou": 0.8, "iou_1": 0.5},
        "test_pooled": {"n": 2, "iou": 0.85, "iou_1": 0.9},
    }
    finished(tmp_path, "uhcs", "scratch", 0, 1, **scores)
    results = module("benchmarks.accuracy.results")
    first, second = lines_of(results.summary(results.collect(tmp_path)))[2:]
    assert first[3:7] == ["fold left out, mean of micrographs", "2", "0.8000", "0.5000"]
    assert second[3:7] == ["fold left out, pixels pooled", "2", "0.8500", "0.9000"]


@pytest.mark.slow
def test_a_tiny_run_is_not_repeated_and_other_settings_are_refused(
    module, tmp_path: Path, capsys, monkeypatch
) -> None:
    benchmark, tasks = module("benchmark_accuracy"), module("benchmarks.accuracy.tasks")
    monkeypatch.setattr(tasks, "RPV_SIZE", (96, 128))
    for name in ("RPV_TRAINING", "RPV_TEST", "RPV_HOLDOUT"):
        monkeypatch.setattr(tasks, name, 1)
    arguments = ["--only", "rpv10", "--start", "shipped", "--seeds", "1", "--out", str(tmp_path)]
    arguments += [f"--set={key}={json.dumps(value)}" for key, value in TINY.items()]
    assert benchmark.main(arguments) == 0
    table = pd.read_csv(tmp_path / "results.csv")
    assert table["section"].tolist() == ["test", "holdout"] and table["n"].tolist() == [1, 1]
    scored = ["dice", "outline_dice", "baseline_dice", "object_f1", "ks_accepted"]
    assert table[scored].notna().all(axis=None)
    found = json.loads((tmp_path / "data" / "rpv10" / "datalist.json").read_text())
    sections = {key: [one["name"] for one in found[key]] for key in ("training", "test", "holdout")}
    assert sections == {"training": ["jfl_001"], "test": ["jfl_003"], "holdout": ["anp_001"]}
    summary = (tmp_path / "results.md").read_text()
    assert "| rpv10 | 1 | shipped | anp (hold-out) | 1 |" in summary

    monkeypatch.setattr(benchmark, "perform", None)
    capsys.readouterr()
    assert benchmark.main(arguments) == 0 and summary in capsys.readouterr().out
    assert benchmark.main([*arguments, "--set", "max_epochs=2"]) == 3
    assert "was made with other settings; name another --out" in capsys.readouterr().err


def test_true_outlines_are_held_against_the_label_that_the_network_is_held_against(
    module, tmp_path: Path, monkeypatch
) -> None:
    tasks = module("benchmarks.accuracy.tasks")
    monkeypatch.setattr(tasks, "RPV_SIZE", (96, 128))
    synthesize(tmp_path, 2, tasks.RPV_SIZE, "anp", tasks.RPV_SEEDS["anp"])
    with Image.open(tmp_path / "anp_003_label.png") as picture:
        written = np.asarray(picture) > 0
    drawn, draw = [], tasks.synthesize_micrograph

    def spy(*how: object) -> object:
        drawn.append(draw(*how))
        return drawn[-1]

    monkeypatch.setattr(tasks, "synthesize_micrograph", spy)
    found = tasks.outline_dice("anp_003")
    label, outlines = (one.label > 0 for one in drawn)
    assert (label == written).all() and (label != outlines).any()
    assert found == pytest.approx(2 * (label & outlines).sum() / (label.sum() + outlines.sum()))


def test_seeds_of_the_synthetic_steel_are_not_those_of_the_shipped_weights(module) -> None:
    tasks = module("benchmarks.accuracy.tasks")
    script = (REPOSITORY / "scripts" / "train_shipped_weights").read_text()
    assert not [seed for seed in tasks.RPV_SEEDS.values() if f"--seed {seed}" in script]
