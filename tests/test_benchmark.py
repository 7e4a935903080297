"""The benchmark's arithmetic on timings whose ratios are known, and its cheap sections on small frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import REPOSITORY


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of scripts/benchmarks, which is no installed package."""
    import importlib

    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_ratios_are_reference_over_ours_pair_by_pair(module) -> None:
    timing = module("timing")
    found = timing.ratios([2, 4, 6, 8, 10], [1, 1, 1, 1, 1])
    assert found == [2, 4, 6, 8, 10]
    assert timing.quartiles(found) == (4, 6, 8)
    # a machine that slows down by two between the pairs changes no ratio
    assert timing.quartiles(timing.ratios([2, 4, 8], [1, 2, 4])) == (2, 2, 2)
    # no pairs: the median of the reference, 3, over each
    assert timing.ratios([1, 3, 5], [1, 3]) == [3, 1]
    assert timing.quartiles([7.0]) == (7, 7, 7)


def test_reference_and_ours_alternate(module) -> None:
    calls: list[str] = []

    def called(name: str, value: float) -> Callable[[], float]:
        return lambda: calls.append(name) or value

    timings = module("timing").alternate(called("reference", 3.0), called("ours", 1.0), 3)
    assert calls == ["reference", "ours"] * 3
    assert timings == ([3.0] * 3, [1.0] * 3)


def test_a_row_knows_its_ratio_and_whether_the_target_is_met(module) -> None:
    table = module("table")
    at_least, at_most = (table.Target("ratio", 3.0), table.Target("value", 2.0, "one core"))
    row = table.Row("training", "images", [2, 2, 2], [4, 6, 8], items=10, target=at_least)
    assert row.ratio() == (2.5, 3, 3.5) and row.met()
    assert row.cells() == ["training", "images", "1.67/s", "5/s", "3 (2.5, 3.5)", "at least 3", "yes"]
    slow = table.Row("measurement", "table", [2.5, 2.1, 1.0], target=at_most, note="a note")
    assert slow.ratio() is None and slow.met() is False
    assert slow.cells() == ["measurement", "table; a note", "", "2.1 s", "", "at most 2 s (one core)", "no"]
    assert table.Row("gpu", "no GPU at hand", []).met() is None


def test_without_amx_ours_is_to_be_no_slower(module, tmp_path: Path) -> None:
    job = module("job").Job
    machine = {"GPU": "none", "instructions": "AVX-512, AVX-512 BF16"}
    assert job(tmp_path, 5, False, machine).ratio_target(8).bound == 1
    amx = machine | {"instructions": "AVX-512, AMX, AMX BF16"}
    assert job(tmp_path, 5, False, amx).ratio_target(8).bound == 8


def test_the_cheap_sections_write_table_and_timings(module, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(module("job").Job, "size", (160, 208))
    monkeypatch.setattr(module("measurement"), "QUICK_COUNT", 60)
    main, result = module("__main__").main, tmp_path / "out.json"
    sections = "preparation,baseline,measurement,gpu"
    assert main(["--quick", "--only", sections, "--repeats", "3", "--json", str(result)]) == 0
    document = json.loads(result.read_text())
    assert document["failed"] == [] and "--quick" in document["command"]
    assert {"CPU", "cores", "instructions", "memory", "torch", "commit", "date"} <= set(document["machine"])
    rows = document["rows"]
    assert list(dict.fromkeys(row["section"] for row in rows)) == sections.split(",")
    for row in rows:
        if row["reference"]:
            assert len(row["reference"]) == len(row["ours"]) == 3
            expected = np.quantile(np.divide(row["reference"], row["ours"]), (0.25, 0.5, 0.75))
            assert list(row["ratio"].values()) == pytest.approx(expected)
    assert next(row for row in rows if row["what"] == "pixels that differ")["met"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.count("|") for line in lines if line.startswith("|")] == [8] * (len(rows) + 2)


def test_network_only_and_agreement_go_through_the_configs(module, tmp_path: Path, monkeypatch) -> None:
    job = module("job").Job
    monkeypatch.setattr(job, "size", (160, 288))
    quick = job(tmp_path, 1, True, {"GPU": "none", "instructions": "AVX2"})
    inference = module("inference")
    row = inference.network_only(quick, module("job").DEFAULT)
    assert len(row.ours) == len(row.reference) == 1 and row.extra["pixels_through_network"] >= 160 * 288
    different, dice = inference.agreement(quick)
    assert different.met() and dice.met()
    assert np.shape(dice.extra["dice"]) == (2, 3)


def test_a_section_that_fails_is_told_and_the_others_run(module, capsys, monkeypatch) -> None:
    def broken(job: object) -> None:
        raise ValueError("no\nluck")

    monkeypatch.setattr(module("baseline"), "rows", broken)
    assert module("__main__").main(["--quick", "--only", "baseline,gpu"]) == 3
    out = capsys.readouterr().out
    assert "failed: baseline: ValueError: no luck" in out and "| gpu |" in out


def test_a_section_of_no_such_name_is_refused(module, capsys) -> None:
    with pytest.raises(SystemExit) as error:
        module("__main__").main(["--only", "inferense"])
    assert error.value.code == 2 and "no section inferense" in capsys.readouterr().err


def test_plain_tiles_of_a_frame_come_back_in_place(module) -> None:
    """The reference's tiling with a network that returns its first channel."""
    import torch

    image = np.random.default_rng(0).normal(size=(2, 200, 300)).astype(np.float32)
    found = module("reference").predict(lambda batch: batch[:, :1], image)
    np.testing.assert_allclose(found, torch.sigmoid(torch.from_numpy(image[0])).numpy(), rtol=1e-6)


def test_dense_carbides_are_as_many_as_asked_for(module) -> None:
    from scipy.ndimage import label

    mask = module("measurement").discs(200, (300, 500))
    assert label(mask, np.ones((3, 3)))[1] == 200
