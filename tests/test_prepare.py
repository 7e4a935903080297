"""What goes in comes out: pixels, labels, pixel size and layout of a source folder in a prepared data set."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
import tifffile
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, SqueezeDimd
from PIL import Image

from carde_monai import datalist
from carde_monai.errors import InputError
from carde_monai.prepare import prepare, quick_look
from carde_monai.synthetic import synthesize

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SHAPE = (40, 60)
P = 0.00698
RAW, RAW_LABEL = "Original SEM Images", "05a_Particle_Image_Filtered.bmp"

KEYS = ("image", "label")


def _chain(*keys: str) -> Compose:
    """The chain of the bundle's configs, stock MONAI; without its first step it takes (H, W, C) arrays."""
    steps = [LoadImaged(keys), EnsureChannelFirstd(keys, channel_dim=-1)]
    return Compose([*steps, SqueezeDimd("image", dim=None, update_meta=False)])


def _mask(seed: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    mask[5 : 10 + seed % 20, 7:20] = True
    return mask


def _pixels(seed: int, dtype: type = np.uint8) -> npt.NDArray[np.generic]:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (2, *SHAPE), dtype)


def _pair(folder: Path, seed: int, labels: Path | None = None, dtype: type = np.uint8) -> str:
    """Write a pair of detector images without metadata, and a label unless ``labels`` is None."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"x_{2 * seed + number:03}" for number in (1, 2)]
    for name, channel in zip(names, _pixels(seed, dtype), strict=True):
        tifffile.imwrite(folder / f"{name}.tif", channel, photometric="minisblack", metadata=None)
    if labels:
        labels.mkdir(exist_ok=True)
        Image.fromarray(np.uint8(255) * _mask(seed)).save(labels / f"{names[0]}_label.png")
    return names[0]


def _published(root: Path, count: int = 4, holdout: int = 1) -> Path:
    for seed in range(count):
        _pair(root / "images", seed, root / "labels")
    for seed in range(count, count + holdout):
        _pair(root / "hold-out", seed, root / "hold-out")
    return root


def _files(root: Path) -> set[str]:
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    return {path for path in files if not path.startswith(".finished/")}  # stamps of the micrographs


def _section_names(dest: Path) -> dict[str, list[str]]:
    return {section: [item["name"] for item in part] for section, part in datalist.read(dest).items()}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of the published layout with known pixel size."""
    root = tmp_path_factory.mktemp("published")
    assert prepare(_published(root / "preprocessed"), root / "data", pixel_size=P, split="2,1,1") == []
    return root / "data"


def test_pixels_labels_and_pixel_size_come_through_stock_monai(published: Path) -> None:
    items = datalist.load(published, ["training", "validation", "test", "holdout"])
    assert len(items) == 5
    for item in items:
        seed = int(item["name"][2:]) // 2
        loaded = _chain(*KEYS)(item)
        np.testing.assert_array_equal(loaded["image"].numpy(), _pixels(seed))
        np.testing.assert_array_equal(loaded["label"].numpy(), _mask(seed)[None])
        for key in KEYS:
            np.testing.assert_allclose(loaded[key].pixdim[:2], P, rtol=1e-6)
            expected = [[0, -P, 0], [-P, 0, 0], [0, 0, 1]]
            np.testing.assert_allclose(loaded[key].affine[[0, 1, 3]][:, [0, 1, 3]], expected, rtol=1e-6)
            assert int(loaded[key].meta["xyzt_units"]) == 3


def test_the_chain_takes_arrays_in_memory_too() -> None:
    image = np.moveaxis(_pixels(0), 0, -1)
    loaded = Compose(_chain(*KEYS).transforms[1:])({"image": image, "label": _mask(0)[..., None]})
    np.testing.assert_array_equal(loaded["image"].numpy(), _pixels(0))
    np.testing.assert_array_equal(loaded["label"].numpy(), _mask(0)[None])


def test_nifti_header(published: Path) -> None:
    name = _section_names(published)["training"][0]
    image, label = (nib.load(published / key / f"{name}.nii.gz") for key in ("images", "labels"))
    assert image.shape == (*SHAPE, 1, 1, 2)
    assert label.shape == (*SHAPE, 1)
    assert image.header.get_intent()[0] == "vector"
    assert image.get_data_dtype() == label.get_data_dtype() == np.uint8
    for file in (image, label):
        assert file.header.get_xyzt_units()[0] == "micron"
        np.testing.assert_allclose(file.header.get_zooms()[:2], P, rtol=1e-6)
        np.testing.assert_allclose(file.get_sform(coded=True)[0], file.get_qform(coded=True)[0], atol=1e-6)
        assert nib.aff2axcodes(file.affine)[:2] == ("P", "L")


def test_itk_sees_image_and_label_upright_in_one_place(published: Path) -> None:
    name = _section_names(published)["training"][0]
    # A list of one file: as 3-D viewers read it. By itself ITK takes the vector image for a plane.
    image, label = (
        SimpleITK.ReadImage([str(published / key / f"{name}.nii.gz")]) for key in ("images", "labels")
    )
    assert image.GetDimension() == label.GetDimension() == 3
    assert (image.GetNumberOfComponentsPerPixel(), label.GetNumberOfComponentsPerPixel()) == (2, 1)
    for read in (SimpleITK.Image.GetSize, SimpleITK.Image.GetDirection, SimpleITK.Image.GetOrigin):
        assert read(image) == read(label)
    np.testing.assert_allclose(image.GetSpacing(), label.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(image.GetSpacing()[:2], P * 1e-3, rtol=1e-6)  # ITK counts in millimetres
    upright = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(image, "LPS"))
    seed = int(name[2:]) // 2
    np.testing.assert_array_equal(np.moveaxis(upright[0], -1, 0), _pixels(seed))
    upright = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(label, "LPS"))
    np.testing.assert_array_equal(upright[0], _mask(seed))


def test_the_hold_out_stays_out_of_the_split(published: Path) -> None:
    names = _section_names(published)
    assert {section: len(part) for section, part in names.items()} == {
        "training": 2,
        "validation": 1,
        "test": 1,
        "holdout": 1,
        "unlabelled": 0,
    }
    assert names["holdout"] == ["x_009"]
    content = json.loads((published / "datalist.json").read_text())
    assert (content["numTraining"], content["numTest"], content["numHoldout"]) == (2, 1, 1)
    assert content["modality"] == {"0": "SE2", "1": "InLens"}
    facts = content["micrographs"]["x_009"]
    assert facts == {"pixel_size_um": P, "info_bar_rows": 0, "label_coverage": round(_mask(4).mean(), 6)}


def test_nothing_but_the_data_set_is_written(published: Path) -> None:
    names = [name for part in _section_names(published).values() for name in part]
    expected = {f"{key}/{name}.nii.gz" for key in ("images", "labels") for name in names}
    assert _files(published) == expected | {f"quicklook/{name}.png" for name in names} | {"datalist.json"}


def test_unknown_pixel_size_is_said_and_sixteen_bits_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = _pair(tmp_path / "raw", 0, dtype=np.uint16)
    with caplog.at_level(logging.WARNING, "carde_monai"):
        assert prepare(tmp_path / "raw", tmp_path / "data") == []
    assert "pixel size unknown for 1 of 1 micrographs; give --pixel_size" in caplog.text
    assert _section_names(tmp_path / "data")["unlabelled"] == [name]
    loaded = _chain("image")(datalist.load(tmp_path / "data", "unlabelled")[0])
    assert int(loaded["image"].meta["xyzt_units"]) == 0
    np.testing.assert_array_equal(loaded["image"].pixdim, 1)
    np.testing.assert_array_equal(loaded["image"].numpy(), _pixels(0, np.uint16))


def test_raw_folders_with_drawn_labels(tmp_path: Path) -> None:
    """The raw layout: cyan particles on the full frame, whose information bar is cut off with the image's."""
    synthesize(tmp_path / "made", micrographs=4, size=(256, 384), seed=3)
    tifs = sorted((tmp_path / "made").rglob("*.tif"))
    masks = {}
    for index in range(4):
        top = (
            tmp_path / "raw" / ("hold-out" if index == 3 else ".") / f"{2 * index + 1:02}-{2 * index + 2:02}"
        )
        (top / RAW).mkdir(parents=True)
        for path in tifs[2 * index : 2 * index + 2]:
            shutil.copy(path, top / RAW)
        frame = tifffile.imread(tifs[2 * index])
        mask = (
            np.asarray(Image.open(next((tmp_path / "made").rglob(f"{tifs[2 * index].stem}_label.png")))) > 0
        )
        drawn = np.repeat(frame[..., None], 3, axis=2)
        drawn[: mask.shape[0]][mask] = (128, 255, 255)
        drawn[-3:] = (128, 255, 255)  # a mark in the information bar
        Image.fromarray(drawn).save(top / RAW_LABEL)
        Image.fromarray(frame).save(top / "02_Filtered.png")  # other files of the work on it
        masks[tifs[2 * index].stem] = mask
    assert prepare(tmp_path / "raw", tmp_path / "data", split="1,1,1") == []
    names = _section_names(tmp_path / "data")
    assert names["holdout"] == [tifs[6].stem]
    for item in datalist.load(tmp_path / "data", ["training", "validation", "test", "holdout"]):
        loaded = _chain(*KEYS)(item)
        assert loaded["image"].shape == (2, 256, 384)
        np.testing.assert_array_equal(loaded["label"][0].numpy(), masks[item["name"]])
    content = json.loads((tmp_path / "data/datalist.json").read_text())
    assert content["micrographs"][tifs[0].stem]["info_bar_rows"] > 0


def test_one_detector_labels_elsewhere_and_class_values(tmp_path: Path) -> None:
    source, truth = tmp_path / "in", tmp_path / "in" / "truth"  # labels that look like micrographs
    truth.mkdir(parents=True)
    for seed in range(3):
        Image.fromarray(_pixels(seed)[0]).save(source / f"steel{seed}.png")
        Image.fromarray(np.where(_mask(seed), 2, seed % 2).astype(np.uint8)).save(truth / f"steel{seed}.png")
    failures = prepare(source, tmp_path / "data", truth, detectors=1, label_value=2, split="1,1,1")
    assert failures == []
    loaded = _chain(*KEYS)(datalist.load(tmp_path / "data", "training")[0])
    np.testing.assert_array_equal(loaded["image"][0], loaded["image"][1])
    seed = int(datalist.load(tmp_path / "data", "training")[0]["name"][-1])
    np.testing.assert_array_equal(loaded["label"][0].numpy(), _mask(seed))
    with pytest.raises(InputError, match=r"no label marks any particle; check --label_value"):
        prepare(source, tmp_path / "other", truth, detectors=1, label_value=9)
    assert not (tmp_path / "other/datalist.json").exists()


def test_bad_micrographs_are_listed_and_the_rest_is_done(tmp_path: Path) -> None:
    source = _published(tmp_path / "in", 5, holdout=0)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(source / "labels/x_001_label.png")
    (source / "images/x_003.tif").write_bytes((source / "images/x_003.tif").read_bytes()[:200])
    (source / "images/x_006.tif").unlink()
    failures = prepare(source, tmp_path / "data")
    reasons = {failure.name: failure.reason for failure in failures}
    assert len(reasons) == 3
    wrong_size = next(reason for reason in reasons.values() if "9 x 9 px" in reason)
    assert "x_001_label.png" in wrong_size and "x_001.tif" in wrong_size
    with (tmp_path / "data/failures.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == [failure.name for failure in failures]
    names = [name for part in _section_names(tmp_path / "data").values() for name in part]
    assert sorted(names) == ["x_007", "x_009"]
    # The next preparation, of sound files, takes the list of failures away.
    assert prepare(_published(tmp_path / "sound"), tmp_path / "data") == []
    assert not (tmp_path / "data/failures.csv").exists()


def test_the_unpacked_archive_is_found_from_above(tmp_path: Path) -> None:
    _published(tmp_path / "cloud/preprocessed")
    assert prepare(tmp_path / "cloud", tmp_path / "data", split="2,1,1") == []
    assert datalist.counts(tmp_path / "data")["training"] == 2
    assert datalist.counts(tmp_path / "data")["holdout"] == 1


def test_pairs_without_partner_leave_nothing(tmp_path: Path) -> None:
    name = _pair(tmp_path / "in", 0, tmp_path / "labels")
    (tmp_path / "in" / f"{name[:-1]}2.tif").unlink()
    with pytest.raises(InputError, match=rf"no micrograph could be prepared \(.*{name}"):
        prepare(tmp_path / "in", tmp_path / "data", tmp_path / "labels", folds=3)
    assert _files(tmp_path / "data") == {"failures.csv"}


def test_a_former_data_set_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    dest = tmp_path / "data"
    prepare(_published(tmp_path / "first"), dest)
    (dest / "images/mine.txt").write_text("mine")
    _pair(tmp_path / "second", 7)
    prepare(tmp_path / "second", dest)
    assert _files(dest) == {"datalist.json", "images/mine.txt", "images/x_015.nii.gz", "quicklook/x_015.png"}


def test_an_error_leaves_the_former_data_set_alone(tmp_path: Path) -> None:
    dest = tmp_path / "data"
    prepare(_published(tmp_path / "first"), dest)
    before = datalist.digest(dest)
    for path in (tmp_path / "first").rglob("*.tif"):
        path.write_bytes(b"II*\0")
    with pytest.raises(InputError, match="no micrograph could be prepared"):
        prepare(tmp_path / "first", dest)
    assert datalist.digest(dest) == before
    assert _files(dest) >= {"failures.csv", "datalist.json"}
    assert not list(dest.glob(".preparing*"))


def test_preparing_twice_gives_the_same_data_set(tmp_path: Path) -> None:
    source = _published(tmp_path / "in")
    for name in ("one", "two"):
        prepare(source, tmp_path / name, seed=4, folds=3)
    assert datalist.digest(tmp_path / "one") == datalist.digest(tmp_path / "two")
    folds = {item["name"]: item["fold"] for item in datalist.read(tmp_path / "one")["training"]}
    assert sorted(set(folds.values())) == [0, 1, 2]
    assert len(folds) == 4


def test_folds_from_a_table(tmp_path: Path) -> None:
    source = _published(tmp_path / "in")
    table = tmp_path / "folds.csv"
    table.write_text("name,fold\n001,0\n003,2\nx_005,5\n")
    failures = prepare(source, tmp_path / "data", folds=str(table))
    assert [failure.name for failure in failures] == ["x_007"]
    assert "folds.csv: does not name x_007" in failures[0].reason
    assert [item["name"] for item in datalist.load(tmp_path / "data", "test", 0)] == ["x_001"]
    assert [item["name"] for item in datalist.load(tmp_path / "data", "validation", 0)] == ["x_005"]
    table.write_text("name,fold\n001,0\n003,1\n")
    with pytest.raises(InputError, match="--folds: fewer than three"):
        prepare(source, tmp_path / "data", folds=table)


def test_equal_names_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    source = tmp_path / "in"
    _pair(source, 0, source)
    _pair(source / "hold-out", 9, source / "hold-out")
    for path in sorted((source / "hold-out").iterdir()):  # 019 and 020 become 001 and 002
        path.rename(path.with_name(path.name.replace("019", "001").replace("020", "002")))
    prepare(source, tmp_path / "data")
    assert _section_names(tmp_path / "data")["holdout"] == ["hold-out_x_001"]
    loaded = _chain(*KEYS)(datalist.load(tmp_path / "data", "holdout")[0])
    np.testing.assert_array_equal(loaded["label"][0].numpy(), _mask(9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "10,1"}, "^--split"),
        ({"folds": 2}, "^--folds: 2 is too few"),
        ({"folds": "9"}, "^--folds: 9 folds for 4"),
        ({"folds": 2.5}, "^--folds: '2.5' is no number and no file"),
        ({"folds": "none.csv"}, r"none.csv: no table of folds"),
        ({"pixel_size": "nano"}, "^--pixel_size"),
        ({"label_color": "cyan"}, "^--label_color"),
        ({"labels": "nowhere"}, "nowhere: no such folder"),
        ({"labels": "."}, r"holds no label of any of 5 micrographs"),
    ],
)
def test_bad_options_stop_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], message: str
) -> None:
    source = _published(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match=message):
        prepare(source, tmp_path / "data", **options)
    assert not (tmp_path / "data").exists()


def test_bad_places(tmp_path: Path) -> None:
    source = _published(tmp_path / "cloud/preprocessed")
    (tmp_path / "file").touch()
    for arguments, message in [
        ((tmp_path / "nowhere", tmp_path / "data"), r"nowhere: no such folder"),
        ((tmp_path / "file", tmp_path / "data"), r"file: is no folder"),
        ((source / "labels", tmp_path / "data"), r"labels: holds no TIFF files; give the folder"),
        ((source, tmp_path / "file"), r"file: is a file; choose another"),
        ((source, source), r"is the source itself"),
    ]:
        with pytest.raises(InputError, match=message):
            prepare(*arguments)
    prepare(source, tmp_path / "data")
    with pytest.raises(InputError, match="is a prepared data set already"):
        prepare(tmp_path / "data", tmp_path / "again")
    (tmp_path / "data/datalist.json").write_text('{"mine": [}')
    with pytest.raises(InputError, match=r"holds another program.s datalist.json; choose another folder"):
        prepare(source, tmp_path / "data")


def test_quick_look_is_small_and_shows_the_label(tmp_path: Path) -> None:
    channels = np.random.default_rng(0).integers(0, 60000, (2, 700, 1024), np.uint16)
    mask = np.zeros((700, 1024), np.uint8)
    mask[200:500, 300:700] = 1
    quick_look(channels, mask, tmp_path / "q.png", P)
    picture = np.asarray(Image.open(tmp_path / "q.png")).astype(int)
    assert picture.shape[1] <= 2020
    third = picture[:455, 2 * 672 :]
    coloured = np.ptp(third, axis=2) > 60
    rows, columns = np.nonzero(coloured)
    scale = 667 / 1024
    np.testing.assert_allclose([rows.min(), rows.max()], [200 * scale, 500 * scale], atol=2)
    np.testing.assert_allclose([columns.min(), columns.max()], [300 * scale, 700 * scale], atol=4)
    assert not (np.ptp(picture[:455, : 2 * 672], axis=2) > 60).any()


@pytest.mark.skipif(not (SHARED / "uhcs").is_dir(), reason="real micrographs are not here")
def test_real_ultrahigh_carbon_steel_with_the_published_folds(tmp_path: Path) -> None:
    folds = Path(__file__).parent / "data" / "uhcs_folds.csv"
    failures = prepare(
        SHARED / "uhcs", tmp_path, SHARED / "uhcs/labels", detectors=1, label_value=1, folds=folds
    )
    assert failures == []
    assert datalist.counts(tmp_path, 5) == {
        "training": 12,
        "validation": 4,
        "test": 4,
        "holdout": 0,
        "unlabelled": 0,
    }
    item = datalist.load(tmp_path, "test", 5)[0]
    truth = np.asarray(Image.open(SHARED / f"uhcs/labels/{item['name']}.png")) == 1
    loaded = _chain(*KEYS)(item)
    np.testing.assert_array_equal(loaded["label"][0].numpy(), truth)
    assert loaded["image"].shape == (2, 484, 645)
