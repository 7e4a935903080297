"""The demo, with frames and a training small enough for a test."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import SHORT, SMALL

from carde_monai import demo
from carde_monai.errors import InputError
from carde_monai.locking import LOCK, claimed


def test_demo_runs_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(demo, "SIZE", (160, 208))
    monkeypatch.setattr(demo, "SPLIT", "3,1,1")
    monkeypatch.setattr(demo, "TRAINING", SMALL | SHORT)
    dest = tmp_path / "out"
    demo.demo(dest)
    printed = capsys.readouterr().out
    for part in ("test, micrographs", "holdout, tiles", "ECE", "mlflow ui", f"--bundle {dest / 'bundle'}"):
        assert part in printed
    assert str(Path(sys.executable).parent) in printed
    for folder in ("first", "segmented"):
        names = {path.name for path in (dest / folder).iterdir()}
        assert {"anp_001_mask.png", "anp_003_overlay.png", "report.html", "particles.csv"} <= names
    assert (dest / "segmented" / "report.html").as_uri() in printed
    for folder in ("results", "results/shipped"):
        summary = json.loads((dest / folder / "summary.json").read_text())
        assert set(summary["sections"]) == {"test", "holdout"}


def test_demo_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "mine_001.tif").touch()
    with pytest.raises(InputError, match="not a folder of an earlier demo"):
        demo.demo(tmp_path)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["mine_001.tif"]


def test_a_second_demo_is_refused_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".carde-monai-demo").touch()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "jfl_001.tif").touch()
    monkeypatch.setattr(demo, "_do_all", lambda _dest: None)
    with claimed(tmp_path), pytest.raises(InputError, match="another run of carde-monai is writing there"):
        demo.demo(tmp_path)
    assert (tmp_path / "raw" / "jfl_001.tif").exists()
    demo.demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".carde-monai-demo"]


def test_a_demo_that_was_killed_at_once_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / LOCK).touch()
    monkeypatch.setattr(demo, "_do_all", lambda _dest: None)
    demo.demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".carde-monai-demo"]
