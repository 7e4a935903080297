"""Micrographs that go bad while others are segmented, and networks whose output is no number."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import SMALL
from ignite.engine import Engine, Events
from monai.transforms import Compose

from carde_monai import bundles
from carde_monai.errors import SOME_FAILED, InputError, user_mistake
from carde_monai.reading import Readable, collate

NAMES = ["anp_001", "anp_003", "jfl_001", "jfl_003", "jfl_005", "jfl_007", "jfl_009"]


class Act:
    """Does ``act`` when the run of an evaluator begins: the folder has been listed, nothing segmented."""

    act: Callable[[Any], object]

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda: Act.act(engine))


@pytest.fixture(scope="module")
def whole(trained: Path, raw: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of folders with which nothing happens: raw and prepared."""
    root = tmp_path_factory.mktemp("whole")
    for name, source in (("sem", raw), ("prepared", dataset)):
        segment(trained, name, source, root / name)
    return root


def segment(bundle: Path, kind: str, source: Path, out: Path, **overrides: Any) -> int:
    """Segment a folder, raw (sem) or prepared; the exit status."""
    overlay = out.with_suffix(".json")
    configs = ["inference", kind, "segment"]
    if "act" in overrides:
        Act.act = staticmethod(overrides.pop("act"))
        overlay.write_text(json.dumps({"+handlers": [{"_target_": "test_reading.Act"}]}))
        configs.append(str(overlay))
    settings = {"dataset_dir": str(source), "output_dir": str(out), "window_size": [128, 128], **overrides}
    try:
        bundles.run(bundle, configs, settings, training=False)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def failures(out: Path) -> dict[str, str]:
    with (out / "failures.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: row["reason"] for row in csv.DictReader(file)}


def assert_only_these_failed(names: list[str], out: Path, whole: Path) -> None:
    assert sorted(failures(out)) == names
    for file in sorted(path.name for path in whole.glob("*_*.*") if path.suffix in (".png", ".tif")):
        if any(file.startswith(name) for name in names):
            assert not (out / file).exists()
        else:
            assert (out / file).read_bytes() == (whole / file).read_bytes()
    left = [name for name in NAMES if name not in names]
    assert list(pd.read_csv(out / "micrographs.csv")["micrograph"]) == left
    assert set(pd.read_csv(out / "particles.csv")["micrograph"]) <= set(left)
    report = (out / "report.html").read_text()
    assert all(f"{name}: " in report or f">{name}<" in report for name in names)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_raw(folder: Path) -> Callable[[Any], None]:
    """Delete one detector's file, cut one off, make another something else."""

    def act(engine: Any) -> None:
        (folder / "jfl_001.tif").unlink()
        cut(folder / "jfl_004.tif")
        (folder / "jfl_007.tif").write_text("no picture")

    return act


def test_raw_files_that_go_bad_in_a_run_are_failures(trained, raw, whole, tmp_path) -> None:
    folder = Path(shutil.copytree(raw, tmp_path / "raw"))
    overrides = {"act": spoil_raw(folder), "dataloader#num_workers": 2}
    assert segment(trained, "sem", folder, tmp_path / "out", **overrides) == SOME_FAILED
    bad = ["jfl_001", "jfl_003", "jfl_007"]
    assert_only_these_failed(bad, tmp_path / "out", whole / "sem")
    for name, file in zip(bad, ("jfl_001.tif", "jfl_004.tif", "jfl_007.tif"), strict=True):
        assert failures(tmp_path / "out")[name].startswith(f"{folder / file}: ")


def test_prepared_images_that_go_bad_in_a_run_are_failures(trained, dataset, whole, tmp_path) -> None:
    data = Path(shutil.copytree(dataset, tmp_path / "data"))

    def act(engine: Any) -> None:
        (data / "images" / "anp_001.nii.gz").unlink()
        cut(data / "images" / "jfl_003.nii.gz")
        (data / "images" / "jfl_009.nii.gz").write_bytes(b"")

    assert segment(trained, "prepared", data, tmp_path / "out", act=act) == SOME_FAILED
    bad = ["anp_001", "jfl_003", "jfl_009"]
    assert_only_these_failed(bad, tmp_path / "out", whole / "prepared")
    for name, reason in failures(tmp_path / "out").items():
        assert reason.startswith(f"{data / 'images' / name}.nii.gz: is damaged ("), reason


def test_finished_micrographs_that_go_bad_before_they_are_measured(trained, raw, whole, tmp_path) -> None:
    folder, out = Path(shutil.copytree(raw, tmp_path / "raw")), tmp_path / "out"
    shutil.copytree(whole / "sem", out)
    probability = out / "jfl_009_probability.tif"

    def act(engine: Any) -> None:
        spoil_raw(folder)(engine)
        cut(probability)

    assert segment(trained, "sem", folder, out, act=act) == SOME_FAILED
    found = failures(out)
    assert sorted(found) == ["jfl_001", "jfl_003", "jfl_007", "jfl_009"]
    assert found["jfl_009"].startswith(f"{probability}: cannot be read (")
    assert list(pd.read_csv(out / "micrographs.csv")["micrograph"]) == ["anp_001", "anp_003", "jfl_005"]
    assert (out / "jfl_001_mask.png").exists(), "it is as good as it was"


def test_a_folder_that_goes_away_leaves_failures_only(trained, raw, tmp_path) -> None:
    folder = Path(shutil.copytree(raw, tmp_path / "raw"))
    assert (
        segment(trained, "sem", folder, tmp_path / "out", act=lambda _: shutil.rmtree(folder)) == SOME_FAILED
    )
    assert sorted(failures(tmp_path / "out")) == NAMES
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_output_that_is_no_number_is_a_failure_and_nothing_else(
    value, trained, raw, whole, tmp_path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole / "sem", out)

    def act(engine: Any) -> None:
        infer = engine.inferer

        def spoilt(image: Any, *args: Any) -> Any:
            found = infer(image, *args)
            if image.meta["filename_or_obj"][0].endswith("jfl_003.tif"):
                found[..., 3, 5] = value
            return found

        engine.inferer = spoilt

    assert segment(trained, "sem", raw, out, act=act, overwrite=True) == SOME_FAILED
    assert_only_these_failed(["jfl_003"], out, whole / "sem")
    assert failures(out)["jfl_003"].startswith("jfl_003: the network's output is not a number; check")
    assert not (out / ".finished" / "jfl_003.json").exists()


def test_an_evaluation_ends_at_an_output_that_is_no_number(trained, dataset, tmp_path) -> None:
    weights = torch.load(trained / "models" / "model.pt", weights_only=True)
    weights["final_conv.bias"].fill_(float("nan"))
    torch.save(weights, tmp_path / "nan.pt")
    settings = {**SMALL, "dataset_dir": str(dataset), "output_dir": str(tmp_path / "out")}
    settings |= {"tracking_uri": None, "weights": str(tmp_path / "nan.pt")}
    with pytest.raises(Exception) as error:
        bundles.run(trained, ["train", "evaluate"], settings, training=True)
    told = str(user_mistake(error.value))
    assert "(images/jfl_" in told and "is not finite" in told


def test_a_mistake_in_a_transform_is_no_failure_of_a_micrograph(dataset: Path) -> None:
    item = {"image": str(dataset / "images" / "jfl_001.nii.gz")}

    def broken(_: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(RuntimeError, match="applying transform"):
        Readable([item], Compose(broken))[0]


def test_a_batch_has_what_could_be_read() -> None:
    def read(item: dict[str, Any]) -> dict[str, Any]:
        if item["image"] == "b.tif":
            raise InputError("b.tif", "is damaged")
        return {"image": torch.zeros(1, 2, 2), "name": item["image"]}

    data = Readable([{"image": name} for name in ("a.tif", "b.tif", "c.tif")], read)
    batch, failed = collate([data[index] for index in range(3)])
    assert batch is not None and batch["image"].shape == (2, 1, 2, 2) and batch["name"] == ["a.tif", "c.tif"]
    assert [(one.name, one.reason) for one in failed] == [("b", "b.tif: is damaged")]
    assert collate([data[1]]) == (None, failed)


def test_a_damaged_file_of_an_evaluation_is_a_failure(trained, dataset, tmp_path, caplog) -> None:
    data, out = Path(shutil.copytree(dataset, tmp_path / "data")), tmp_path / "out"
    cut(data / "images" / "anp_001.nii.gz")
    listed = json.loads((data / "datalist.json").read_text())
    tested = listed["test"][0]["name"]
    cut(data / "labels" / f"{tested}.nii.gz")
    settings = {**SMALL, "dataset_dir": str(data), "output_dir": str(out), "tracking_uri": None}
    with pytest.raises(SystemExit) as end:
        bundles.run(trained, ["train", "evaluate"], settings, training=True)
    assert end.value.code == SOME_FAILED
    found = failures(out)
    assert found.keys() == {"anp_001", tested}
    assert found["anp_001"].startswith(f"{data}/images/anp_001.nii.gz: is damaged (")
    assert found[tested].startswith(f"{data}/labels/{tested}.nii.gz: is damaged (")
    assert list(pd.read_csv(out / "metrics.csv")["name"]) == ["anp_003"]
    assert f"{data}: 1 of 3 micrographs can be read; all figures are of this one" in caplog.text
    assert str(data / "labels" / tested) in (out / "network" / "report.html").read_text()
