"""Fields to tables: samples, settings, files, and that the files agree with each other."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from carde_monai.errors import Failure, InputError
from carde_monai.measurement import Field, Settings, check_group_by, measure, sample_name, write_results

PIXEL = 0.02


def squares() -> np.ndarray:
    """Squares of 10, 6 and 2 px, and one of 4 px that the left border cuts."""
    mask = np.zeros((100, 120), bool)
    for top, left, side in ((10, 20, 10), (50, 60, 6), (80, 100, 2), (30, 0, 4)):
        mask[top : top + side, left : left + side] = True
    return mask


def field(name: str = "steel", **changes) -> Field:
    return Field(
        **(
            {
                "name": name,
                "sample": "S",
                "particles": squares(),
                "pixel_size_um": PIXEL,
                "pixel_size_source": "file",
            }
            | changes
        )
    )


def write(folder: Path, *fields: Field, **told) -> list[dict]:
    settings = Settings()
    done = [measure(one, folder, settings, 200) for one in fields]
    told = {"title": "Steel", "facts": {"model": "none"}} | told
    return write_results(done, folder, settings, **told)


@pytest.mark.parametrize(
    ("path", "group_by", "expected"),
    [
        ("a_001.tif", None, "root"),
        ("X/a_001.tif", None, "X"),
        ("X/Y/a_001.tif", None, "X/Y"),
        ("X/images/a_001.tif", None, "X"),
        ("images/a_001.tif", None, "root"),
        ("01-02/Original SEM Images/a_001.tif", None, "01-02"),
        ("X/jfl_001.tif", "jfl|anp", "jfl"),
        ("X/jfl_001.tif", "(.)/.*_0", "X"),
        ("X/jfl_001.tif", "(anp)?fl", "fl"),
    ],
)
def test_sample_name(path: str, group_by: str | None, expected: str) -> None:
    root = Path("/some/root")
    assert sample_name(root / path, root, group_by) == expected


def test_a_root_that_tells_only_its_content_gives_its_place_to_the_folder_above() -> None:
    root = Path("/some/steel/labels")
    assert sample_name(root / "a.png", root) == "steel"


def test_a_single_file_is_a_sample_of_its_folder() -> None:
    assert sample_name(Path("/some/root/a.tif"), Path("/some/root/a.tif")) == "root"


def test_group_by_that_does_not_work_is_said() -> None:
    with pytest.raises(InputError, match="no regular expression"):
        check_group_by("(")
    with pytest.raises(InputError, match=r"finds nothing in X/a\.tif"):
        sample_name(Path("/root/X/a.tif"), Path("/root"), "zinc")


@pytest.mark.parametrize("wrong", [{"min_area": 0}, {"min_area": 2.5}, {"large": 0}, {"large": "big"}])
def test_settings_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(wrong))}"):
        Settings(**wrong)


def test_files_agree_with_the_mask_and_each_other(tmp_path: Path) -> None:
    (summary,) = write(tmp_path, field("b"), field("a"))
    labels = tifffile.imread(tmp_path / "a_labels.tif")
    np.testing.assert_array_equal(np.unique(labels), [0, 1, 2, 3])  # that of 4 pixels is too small to count
    np.testing.assert_array_equal(labels > 0, squares() & (labels > 0))
    particles = pd.read_csv(tmp_path / "particles.csv")
    assert list(particles.columns[:3]) == ["micrograph", "sample", "label"]
    one = particles[particles["micrograph"] == "a"].set_index("label")
    np.testing.assert_allclose(one["area_um2"], np.bincount(labels.ravel())[1:] * PIXEL**2)
    assert list(one["touches_border"]) == [False, True, False]
    fields = pd.read_csv(tmp_path / "micrographs.csv").set_index("micrograph")
    assert fields.loc["a", "area_fraction"] == pytest.approx((100 + 36 + 16) / 12000, rel=1e-5)
    area = 120 * 100 * PIXEL**2
    assert fields.loc["a", "number_density_per_um2"] == pytest.approx(3 / area, rel=1e-5)
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["samples"] == [summary] and summary["sample"] == "S"
    assert summary["quantities"]["number_density"]["value"] == pytest.approx(3 / area)
    assert written["facts"]["model"] == "none" and written["facts"]["pixel size"] == "20 nm (file)"
    table = pd.read_csv(tmp_path / "summary.csv")
    assert set(table["quantity"]) >= {"number_density", "area_fraction", "ecd_mean"}
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".png", ".svg"}


def test_numbered_particles_are_not_joined(tmp_path: Path) -> None:
    numbers = np.zeros((50, 50), np.int64)
    numbers[10:20, 10:20], numbers[10:20, 20:30], numbers[40, 40] = 5, 9, 2
    done = measure(field(particles=numbers), tmp_path, Settings(), 200)
    assert list(done.particles["label"]) == [5, 9]  # touching, and the pixel is too small
    numbers[numbers == 9] = 3_000_000_000
    done = measure(field(particles=numbers), tmp_path, Settings(split_touching=True), 200)
    assert list(done.particles["label"]) == [5, 3_000_000_000]
    assert "numbered already; they are not split" in done.warnings[0]


def test_samples_and_units_stay_apart(tmp_path: Path) -> None:
    summaries = write(
        tmp_path, field("a"), field("b", sample="T"), field("c", sample="T", pixel_size_um=None)
    )
    assert [(one["sample"], one["unit"]) for one in summaries] == [
        ("S", "um"),
        ("T", "um"),
        ("T (pixel size unknown)", "px"),
    ]
    facts = json.loads((tmp_path / "summary.json").read_text())["facts"]
    assert facts["pixel size"] == "20 nm (file) in 2 of 3 micrographs; unknown in 1 of 3 micrographs"


def test_an_inverted_mask_is_suspected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "carde_monai"):
        write(tmp_path, field(particles=~squares()))
    assert "steel: carbides cover 99 % of the area: is the mask inverted" in caplog.text
    assert "is the mask inverted" in (tmp_path / "report.html").read_text()


def test_the_report_tells_failures(tmp_path: Path) -> None:
    write(tmp_path, field(), failures=[Failure("other", "other.tif: is truncated")], warnings=["odd focus"])
    report = (tmp_path / "report.html").read_text()
    assert "other.tif: is truncated" in report and "odd focus" in report


def test_no_carbides_and_nothing_at_all(tmp_path: Path) -> None:
    (summary,) = write(tmp_path, field(particles=np.zeros((100, 120), bool)))
    assert summary["quantities"]["number_density"]["value"] == 0
    summaries = write(tmp_path, *(field(name, particles=np.zeros((100, 120), bool)) for name in "ab"))
    area = 2 * 100 * 120 * PIXEL**2
    assert summaries[0]["quantities"]["number_density"]["high"] == pytest.approx(3 / area)
    assert summaries[0]["quantities"]["area_fraction"]["high"] is None
    with pytest.raises(InputError, match=r"no micrograph was measured \(a: broken\); check the files"):
        write_results([], tmp_path, Settings(), title="", facts={}, failures=[Failure("a", "broken")])


@pytest.mark.parametrize("name", ["../x", "", os.fsdecode(b"\xff_1")])
def test_a_name_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot name a file"):
        measure(field(name), tmp_path, Settings(), 200)
