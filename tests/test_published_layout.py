"""The published data set's layout, written with synthetic steel, and what `prepare` makes of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import skimage.io
import tifffile
from PIL import Image

from carde_monai.errors import InputError
from carde_monai.prepare import prepare
from carde_monai.published_layout import write_published

SIZE = (96, 128)
ODD = ["WD6mm_21", "WD6mm_23", "WD6mm_25", "WD6mm_27", *(f"WD_06mm_{n:03d}" for n in range(1, 17, 2))]
HOLDOUT = ["WD6mm_31", "WD6mm_33"]
JFL_UM, ANP_UM = 0.00698, 0.0056


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``cloud/preprocessed`` of 12 micrographs and 2 in hold-out, without metadata, as published."""
    return write_published(tmp_path_factory.mktemp("published"), 12, 2, SIZE, seed=1)


def _partner(name: str) -> str:
    stem, number = name.rsplit("_", 1)
    return f"{stem}_{int(number) + 1:0{len(number)}d}"


def _facts(dest: Path) -> dict[str, Any]:
    return json.loads((dest / "datalist.json").read_text())


def _names(dest: Path, *sections: str) -> list[str]:
    return sorted(item["name"] for section in sections for item in _facts(dest)[section])


def test_files_are_the_published_ones(root: Path) -> None:
    expected = {f"images/{name}.tif" for odd in ODD for name in (odd, _partner(odd))}
    expected |= {f"labels/{odd}_label.png" for odd in ODD}
    expected |= {f"hold-out/{name}.tif" for odd in HOLDOUT for name in (odd, _partner(odd))}
    expected |= {f"hold-out/{odd}_label.png" for odd in HOLDOUT}
    assert {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} == expected
    assert root.parts[-2:] == ("cloud", "preprocessed")


def test_images_are_as_scikit_image_saves_them(root: Path, tmp_path: Path) -> None:
    for path in (root / "images").glob("*_2?.tif"):
        skimage.io.imsave(tmp_path / path.name, tifffile.imread(path), check_contrast=False)
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_labels_have_the_size_of_their_images_and_two_values(root: Path) -> None:
    for odd in ODD:
        label = np.asarray(Image.open(root / "labels" / f"{odd}_label.png"))
        assert label.dtype == np.uint8 and set(np.unique(label)) <= {0, 255}
        for name in (odd, _partner(odd)):
            assert tifffile.imread(root / "images" / f"{name}.tif").shape == label.shape
    shape = tifffile.imread(root / "images" / "WD_06mm_001.tif").shape
    assert shape == (round(96 * 1382 / 1404), 128) != SIZE  # carde's cut takes more than the info bar


@pytest.mark.parametrize("whole", [False, True], ids=["preprocessed", "root of the archive"])
def test_prepare_reads_all_of_it(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, whole: bool
) -> None:
    dest = tmp_path / "data"
    with caplog.at_level(logging.WARNING):
        assert prepare(root.parents[1] if whole else root, dest) == []
    assert _names(dest, "training", "validation", "test") == ODD
    assert _names(dest, "holdout") == HOLDOUT
    assert _names(dest, "unlabelled") == []
    facts = _facts(dest)["micrographs"].values()
    assert {(one["pixel_size_um"], one["info_bar_rows"]) for one in facts} == {(None, 0)}
    assert "pixel size unknown for 14 of 14 micrographs" in caplog.text
    for name, folder in [("WD6mm_21", "images"), ("WD_06mm_001", "images"), ("WD6mm_33", "hold-out")]:
        image = np.asarray(nib.load(dest / "images" / f"{name}.nii.gz").dataobj)[:, :, 0, 0, :]
        for channel, file in enumerate((name, _partner(name))):  # SE2, InLens
            np.testing.assert_array_equal(image[..., channel], tifffile.imread(root / folder / f"{file}.tif"))
        label = np.asarray(nib.load(dest / "labels" / f"{name}.nii.gz").dataobj)[..., 0]
        drawn = root / ("labels" if folder == "images" else folder) / f"{name}_label.png"
        np.testing.assert_array_equal(label * 255, np.asarray(Image.open(drawn)))


def test_metadata_give_each_steel_its_pixel_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_published(tmp_path, 3, 1, SIZE, seed=2, metadata=True)
    with caplog.at_level(logging.WARNING):
        assert prepare(source, tmp_path / "data", split="1,1,1") == []
    facts = _facts(tmp_path / "data")["micrographs"]
    sizes = {name: one["pixel_size_um"] for name, one in facts.items()}
    assert sizes == {"WD_06mm_001": JFL_UM, "WD_06mm_003": JFL_UM, "WD6mm_21": ANP_UM, "WD6mm_31": ANP_UM}
    assert {one["info_bar_rows"] for one in facts.values()} == {0}  # cut by carde already
    assert not caplog.records


def test_prepare_takes_a_label_that_stands_under_both_names(tmp_path: Path) -> None:
    source = write_published(tmp_path, 3, 1, SIZE, seed=2, both_labels=True)
    assert len(list((source / "labels").iterdir())) == 6
    assert prepare(source, tmp_path / "data", split="1,1,1") == []


def test_prepare_keeps_the_holdout_of_the_whole_archive(tmp_path: Path) -> None:
    write_published(tmp_path, 3, 1, SIZE, seed=2, whole=True)
    assert prepare(tmp_path, tmp_path / "data", split="1,1,1") == []
    assert _names(tmp_path / "data", "holdout") == ["WD6mm_31"]


def test_the_whole_archive_holds_raw_frames_tiles_and_logs(tmp_path: Path) -> None:
    source = write_published(tmp_path, 2, 1, SIZE, seed=2, whole=True)
    cloud = source.parent
    raw = tifffile.imread(cloud / "01-02" / "Original SEM Images" / "WD_06mm_001.tif")
    cut = tifffile.imread(source / "images" / "WD_06mm_001.tif")
    assert raw.shape == (round(96 * 1536 / 1404), 128)
    np.testing.assert_array_equal(raw[: len(cut)], cut)
    assert (cloud / "01-02" / "05a_Particle_Image_Filtered.bmp").exists()
    assert (cloud / "ANP_3" / "WD6mm_32.tif").exists()
    assert (cloud / "processed_tiles" / "images" / "image_00000.pt").exists()
    assert (cloud / "tb_logs" / "unet_model").is_dir()
    assert prepare(source, tmp_path / "data", split="1,1,1") == []  # the cut ones alone


def test_the_same_seed_gives_the_same_files_and_another_does_not(tmp_path: Path) -> None:
    roots = [
        write_published(tmp_path / name, 1, 0, SIZE, seed) for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    contents = [(root / "images" / "WD_06mm_001.tif").read_bytes() for root in roots]
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize("counts", [(14, 0), (0, 1), (3, 6), (3, -1)])
def test_not_more_than_was_published(tmp_path: Path, counts: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="up to 13 and 5"):
        write_published(tmp_path, *counts, SIZE)
