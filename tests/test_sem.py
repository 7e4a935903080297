"""Folders of microscope files become micrographs, and those MONAI images whose affine is in micrometres."""

from __future__ import annotations

import logging
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged, SaveImaged
from PIL import Image
from sem_writer import fei, info_bar, jeol, noise, pair, tescan, write, zeiss

from carde_monai.errors import InputError
from carde_monai.sem import Micrograph, SEMReader, find_micrographs, read_micrograph, scan
from carde_monai.sem_files import order_pair
from carde_monai.synthetic import synthesize

P = 0.00698
SE2, INLENS = zeiss(detector="SESI"), zeiss(detector="InLens")


def _names(folder: Path, detectors: int = 2) -> tuple[dict[str, list[str]], list[str]]:
    """Files of each micrograph relative to the folder, and the reasons of the failures."""
    found, failures = find_micrographs(folder, detectors)
    files = {one.name: [str(path.relative_to(folder).as_posix()) for path in one.paths] for one in found}
    return files, [failure.reason for failure in failures]


def _touch(folder: Path, *names: str) -> None:
    """Files whose content does not matter: what they say of their detector is nothing."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"II")


# Pairing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("WD6mm_21.tif", "WD6mm_22.tif"),
        ("WD_06mm_001.tif", "WD_06mm_002.tif"),
        ("a_9.tif", "a_10.tif"),
        ("a_009.tif", "a_10.tif"),
        ("A_1.TIF", "A_2.TIFF"),
        ("a_1.Tif", "a_2.tif"),
        ("steel 3 (b)_1.tif", "steel 3 (b)_2.tif"),
        ("Ä µ_1.tif", "Ä µ_2.tif"),
        ("1.tif", "2.tif"),
        ("img99.tif", "img100.tif"),
    ],
)
def test_odd_and_next_even_number_are_a_pair(names: tuple[str, str], tmp_path: Path) -> None:
    _touch(tmp_path, *names)
    assert _names(tmp_path) == ({Path(names[0]).stem: list(names)}, [])


@given(st.lists(st.integers(0, 499), min_size=1, max_size=30, unique=True), st.booleans())
def test_any_numbers_pair_or_fail(odds: list[int], padded: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pattern = "s_{:05d}.tif" if padded else "s_{}.tif"
        for odd in odds:
            _touch(Path(folder), pattern.format(2 * odd + 1), pattern.format(2 * odd + 2))
        found, failures = find_micrographs(folder)
        assert failures == []
        expected = {pattern.format(2 * odd + 1)[:-4] for odd in odds}
        assert {one.name for one in found} == expected and len(found) == len(odds)
        for one in found:
            first, second = (int(path.stem[2:]) for path in one.paths)
            assert first % 2 == 1 and second == first + 1


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["b_1.tif"], ["b_1.tif: its InLens partner b_2.tif is missing"]),
        (["b_002.tif"], ["b_002.tif: its SE2 partner b_001.tif is missing"]),
        (["b_2.tif", "b_3.tif"], ["its SE2 partner b_1.tif", "its InLens partner b_4.tif"]),
        (["b_0.tif"], ["numbered 0"]),
        (["b_0.tif", "b_1.tif", "b_2.tif"], ["numbered 0"]),
        (["b_1.tif", "b_001.tif", "b_2.tif"], ["b_001.tif and b_1.tif and b_2.tif share a number"]),
        (["b_1.tif", "b_1.tiff", "b_2.tif"], ["share a number"]),
        (["b_1.tif", "b_2.tif", "b_02.tif"], ["share a number"]),
        (["overview.tif"], ["overview.tif: has no number at the end"]),
        (["b_1a.tif", "b_2a.tif"], ["no number", "no number"]),
        (["B_1.tif", "b_2.tif"], ["B_1.tif: its InLens", "b_2.tif: its SE2"]),
        (["b/s_1.tif", "c/s_2.tif"], ["s_1.tif: its InLens", "s_2.tif: its SE2"]),
    ],
)
def test_what_makes_no_pair_fails_and_the_rest_goes_on(
    names: list[str], says: list[str], tmp_path: Path
) -> None:
    _touch(tmp_path, "a_1.tif", "a_2.tif", *names)
    found, reasons = _names(tmp_path)
    assert found.pop("a_1") == ["a_1.tif", "a_2.tif"]
    assert len(reasons) == len(says)
    for part in says:
        assert any(part in reason for reason in reasons), reasons
    assert all("\n" not in reason and str(tmp_path) in reason for reason in reasons)


def test_labels_results_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    _touch(tmp_path, "a_1.tif", "a_2.tif", "a_1_label.tif", "a_1_MASK.TIF", "a_1_overlay.tif", "notes.txt")
    _touch(tmp_path, "a_1_probability.tif", "._a_1.tif", ".b_1.tif", "05a_Particle_Image_Filtered.bmp")
    _touch(tmp_path, ".cache/c_1.tif", "labels/a_1.tif", "Masks/a_1.tif", "a_1.png", "a_2.jpg")
    assert _names(tmp_path) == ({"a_1": ["a_1.tif", "a_2.tif"]}, [])


def test_folders_named_like_images_and_links(tmp_path: Path) -> None:
    data = tmp_path / "data"
    _touch(data, "a_1.tif", "a_2.tif")
    _touch(tmp_path / "far", "b_1.tif", "b_2.tif")
    (data / "c_1.tif").mkdir()
    (data / "link").symlink_to(tmp_path / "far", target_is_directory=True)
    (data / "loop").symlink_to(data, target_is_directory=True)
    (data / "d_1.tif").symlink_to(tmp_path / "far" / "b_1.tif")
    (data / "d_2.tif").symlink_to(tmp_path / "far" / "b_2.tif")
    assert list(_names(data)[0]) == ["a_1", "d_1"]


def test_the_published_layouts(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"cloud/preprocessed/images/WD6mm_{number}.tif" for number in (21, 22, 23, 24)))
    _touch(tmp_path, *(f"cloud/preprocessed/hold-out/ANP_{number}.tif" for number in (1, 2)))
    _touch(
        tmp_path,
        "cloud/preprocessed/hold-out/ANP_1_label.png",
        "cloud/preprocessed/labels/WD6mm_21_label.png",
    )
    files, reasons = _names(tmp_path)
    assert (list(files), reasons) == (["ANP_1", "WD6mm_21", "WD6mm_23"], [])


def test_equal_names_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for part in ("01-02", "03-04"):
        _touch(tmp_path, *(f"{part}/Original SEM Images/WD6mm_0{number}.tif" for number in (1, 2)))
    _touch(tmp_path, "05-06/Original SEM Images/x_1.tif", "05-06/Original SEM Images/x_2.tif")
    assert list(_names(tmp_path)[0]) == ["01-02_WD6mm_01", "03-04_WD6mm_01", "x_1"]
    found, _ = find_micrographs(tmp_path / "01-02")
    assert [one.name for one in found] == ["WD6mm_01"]


def test_equal_names_of_which_one_is_higher(tmp_path: Path) -> None:
    _touch(tmp_path, "a_1.tif", "a_2.tif", "old/a_1.tif", "old/a_2.tif")
    assert list(_names(tmp_path)[0]) == ["a_1", "old_a_1"]
    assert [one.name for one in find_micrographs(tmp_path, recursive=False)[0]] == ["a_1"]


def test_names_that_stay_equal_fail(tmp_path: Path) -> None:
    _touch(tmp_path, "a.png", "a.tif", "b.png")
    files, reasons = _names(tmp_path, 1)
    assert list(files) == ["b"]
    assert len(reasons) == 2 and all("another file makes a micrograph a" in reason for reason in reasons)


def test_one_detector_takes_any_name_tiff_or_png(tmp_path: Path) -> None:
    _touch(
        tmp_path, "uhcs0007.png", "Überblick.TIF", "a_1.tif", "b.jpg", "c_label.png", "labels/uhcs0007.png"
    )
    files, reasons = _names(tmp_path, 1)
    assert (set(files), reasons) == ({"uhcs0007", "Überblick", "a_1"}, [])
    assert all(len(paths) == 1 for paths in files.values())
    assert find_micrographs(tmp_path / "a_1.tif", 1) == ([Micrograph("a_1", (tmp_path / "a_1.tif",))], [])


@pytest.mark.parametrize("detectors", [1, 2])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no such folder"),
        (lambda path: path.mkdir(), "holds no TIFF"),
        (lambda path: path.write_text("text"), "is a file"),
        (lambda path: _touch(path, "a.jpg", "a_label.tif", ".a_1.tif"), "holds no TIFF"),
        (lambda path: _touch(path, "labels/a_1.tif"), "holds no TIFF"),
    ],
)
def test_no_folder_of_images(make: object, says: str, detectors: int, tmp_path: Path) -> None:
    make(tmp_path / "here")  # type: ignore[operator]
    for call in (find_micrographs, scan):
        with pytest.raises(InputError, match=says) as error:
            call(tmp_path / "here", detectors)
        assert "here" in str(error.value) and ";" in str(error.value)


def test_a_file_is_no_folder_of_pairs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a file"):
        find_micrographs(write(tmp_path / "a_1.tif", noise()))
    with pytest.raises(InputError, match="--detectors"):
        find_micrographs(tmp_path, 3)


# What the files say of their detectors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("odd", "even", "swapped"),
    [
        (SE2, INLENS, False),
        (INLENS, SE2, True),
        (None, None, False),
        (None, INLENS, False),
        (SE2, None, False),
        (INLENS, None, True),
        (None, SE2, True),
        (fei(detector="ETD"), fei(detector="TLD"), False),
        (fei(detector="TLD"), fei(detector="ETD"), True),
        (tescan(detector="In-Beam SE"), tescan(detector="SE"), True),
        (zeiss(detector="BSD"), INLENS, False),
        (zeiss(detector="BSD"), zeiss(detector="ESB"), False),
    ],
)
def test_the_metadata_win_over_the_number(
    odd: dict[int, bytes] | None, even: dict[int, bytes] | None, swapped: bool, tmp_path: Path
) -> None:
    first, second = pair(tmp_path, tags=(odd, even))
    found, failures = find_micrographs(tmp_path)
    assert failures == []
    assert [one.name for one in found] == ["a_001"]
    assert found[0].paths == ((second, first) if swapped else (first, second))
    pixels = read_micrograph((first, second)).pixels
    expected = (noise(seed=1), noise(seed=0)) if swapped else (noise(seed=0), noise(seed=1))
    np.testing.assert_array_equal(pixels, expected)
    # whichever way it is asked for, the channels of files that name both detectors are the same
    if odd and even and "BSD" not in str(odd):
        np.testing.assert_array_equal(read_micrograph((second, first)).pixels, expected)


@pytest.mark.parametrize("tags", [SE2, INLENS])
def test_two_files_of_one_detector_are_an_error_that_names_both(
    tags: dict[int, bytes], tmp_path: Path
) -> None:
    first, second = pair(tmp_path, tags=(tags, tags))
    pair(tmp_path, ("a_003.tif", "a_004.tif"))
    found, failures = find_micrographs(tmp_path)
    assert [one.name for one in found] == ["a_003"]
    assert [failure.name for failure in failures] == ["a_001"]
    with pytest.raises(InputError) as error:
        read_micrograph((first, second))
    for reason in (failures[0].reason, str(error.value)):
        assert "a_001.tif" in reason and "a_002.tif" in reason and "both name" in reason


def test_detectors_of_another_kind_are_warned_of(tmp_path: Path) -> None:
    image = read_micrograph(pair(tmp_path, tags=(zeiss(detector="BSD"), INLENS)))
    assert image.detectors == ("BSD", "InLens")
    assert len(image.warnings) == 1 and "BSD" in image.warnings[0]


def test_order_of_pairs_is_symmetric() -> None:
    one, two = Path("1"), Path("2")
    assert order_pair(one, two, "InLens", "SE2") == order_pair(two, one, "SE2", "InLens") == (two, one)


# Reading ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_pair_becomes_two_channels(dtype: type, tmp_path: Path) -> None:
    frames = [np.vstack([noise(400, 512, seed, dtype), _bar(dtype)]) for seed in (1, 2)]
    paths = [
        write(tmp_path / f"a_{n}.tif", frame, tags)
        for n, frame, tags in zip((1, 2), frames, (SE2, INLENS), strict=True)
    ]
    image = read_micrograph(paths)
    assert image.pixels.shape == (2, 400, 512) and image.pixels.dtype == dtype
    np.testing.assert_array_equal(image.pixels, [frame[:400] for frame in frames])
    assert image.pixel_size_um == pytest.approx(P)
    assert (image.info_bar_rows, image.detectors) == (40, ("SESI", "InLens"))
    assert image.source.startswith("Zeiss") and image.warnings == ()


def _bar(dtype: type) -> np.ndarray:
    return info_bar(40, 512).astype(dtype) * dtype(np.iinfo(dtype).max // 255)


@pytest.mark.parametrize("name", ["a.tif", "a.PNG"])
def test_a_single_file_fills_both_channels(name: str, tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / name)
    path = tmp_path / name
    for given_paths in (path, str(path), [path], (path, path)):
        image = read_micrograph(given_paths)
        np.testing.assert_array_equal(image.pixels, [noise(), noise()])
        assert (image.pixel_size_um, image.source, image.detectors) == (None, "unknown", (None,))


@pytest.mark.parametrize(
    ("second", "tags", "says"),
    [
        (noise(90), None, r"differ in size \(128 x 96 and 128 x 90 px\)"),
        (noise(96, 120), None, "differ in size"),
        (noise(dtype=np.uint16), None, r"differ in depth \(8 and 16 bit\)"),
        (noise(), zeiss("7.5 nm"), "differ in pixel size"),
        (noise(), fei("7.5e-9", detector="TLD"), "differ in pixel size"),
    ],
)
@pytest.mark.parametrize("pixel_size", [None, P])
def test_partners_that_do_not_fit(
    second: np.ndarray, tags: dict[int, bytes] | None, says: str, pixel_size: float | None, tmp_path: Path
) -> None:
    paths = [write(tmp_path / "a_1.tif", noise(), zeiss()), write(tmp_path / "a_2.tif", second, tags)]
    with pytest.raises(InputError, match=says) as error:
        read_micrograph(paths, pixel_size)
    assert "a_1.tif" in str(error.value) and "a_2.tif" in str(error.value)


def test_one_pixel_size_is_enough_for_two(tmp_path: Path) -> None:
    for tags in ((zeiss(), None), (None, zeiss())):
        image = read_micrograph(pair(tmp_path, tags=tags))
        assert image.pixel_size_um == pytest.approx(P) and image.warnings == ()


def test_the_argument_wins_and_a_contradiction_is_a_warning(tmp_path: Path) -> None:
    paths = pair(tmp_path, tags=(SE2, INLENS))
    image = read_micrograph(paths, 0.01)
    assert (image.pixel_size_um, image.source) == (0.01, "pixel_size")
    assert len(image.warnings) == 1
    assert all(part in image.warnings[0] for part in ("a_001.tif", "0.01", "0.00698"))
    assert read_micrograph(paths, P * 1.005).warnings == ()
    unknown = read_micrograph(pair(tmp_path / "b"), 0.01)
    assert (unknown.pixel_size_um, unknown.warnings) == (0.01, ())


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, 1e9, "5nm", True, [1]])
def test_impossible_pixel_sizes_are_refused(value: object, tmp_path: Path) -> None:
    for call in (read_micrograph, scan):
        with pytest.raises(InputError, match="--pixel_size"):
            call(tmp_path, pixel_size=value)  # type: ignore[operator]
    with pytest.raises(InputError, match="--pixel_size"):
        SEMReader(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 3])
def test_one_or_two_files(count: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{count} files"):
        read_micrograph([tmp_path / f"{number}.tif" for number in range(count)])


def test_the_rows_that_the_metadata_state_are_cut(tmp_path: Path) -> None:
    strip = np.zeros((10, 128), np.uint8)  # no text: no bar to the eye
    frame = np.vstack([noise(86), strip])
    tags = fei(size="ResolutionX=128\r\nResolutionY=86\r\n")
    assert read_micrograph(write(tmp_path / "a.tif", frame, tags)).info_bar_rows == 10
    assert read_micrograph(write(tmp_path / "b.tif", frame)).info_bar_rows == 0
    (tmp_path / "b.txt").write_text(jeol(rest="$CM_FULL_SIZE 128 86\n"))
    image = read_micrograph(tmp_path / "b.tif")
    assert (image.info_bar_rows, image.pixel_size_um) == (10, pytest.approx(1 / 143))


def test_a_bar_in_one_detector_only_is_left(tmp_path: Path) -> None:
    write(tmp_path / "a_1.tif", np.vstack([noise(400, 512), info_bar(40, 512)]))
    write(tmp_path / "a_2.tif", noise(440, 512, seed=1))
    image = read_micrograph([tmp_path / "a_1.tif", tmp_path / "a_2.tif"])
    assert image.pixels.shape == (2, 440, 512) and image.info_bar_rows == 0
    assert "a_1.tif and a_2.tif: only one detector" in image.warnings[0]


# As MONAI sees it ------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A pair with pixel size and info bar."""
    frames = [np.vstack([noise(400, 512, seed), info_bar(40, 512)]) for seed in (1, 2)]
    names = ("a_001.TIF", "a_002.tif")
    tags = (SE2, INLENS)
    return [str(write(tmp_path / n, frame, tag)) for n, frame, tag in zip(names, frames, tags, strict=True)]


def test_loadimaged_gives_a_metatensor_in_micrometres(files: list[str]) -> None:
    chain = Compose([LoadImaged("image", reader=SEMReader), EnsureChannelFirstd("image", channel_dim=-1)])
    image = chain({"image": files})["image"]
    assert isinstance(image, MetaTensor) and image.shape == (2, 400, 512)
    np.testing.assert_array_equal(image.numpy(), [noise(400, 512, 1), noise(400, 512, 2)])
    np.testing.assert_allclose(image.pixdim[:2], P)
    expected = [[0, -P, 0, 0], [-P, 0, 0, 0], [0, 0, P, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(image.affine, expected)
    np.testing.assert_allclose(image.meta["original_affine"], expected)
    assert tuple(image.meta["spatial_shape"]) == (400, 512)
    facts = {key: image.meta[key] for key in ("xyzt_units", "info_bar_rows", "space", "filename_or_obj")}
    assert facts == {"xyzt_units": 3, "info_bar_rows": 40, "space": "RAS", "filename_or_obj": files[0]}
    assert image.meta["pixel_size_um"] == pytest.approx(P)


@pytest.mark.parametrize("reader", [SEMReader, SEMReader(), "carde_monai.sem.SEMReader"])
def test_channel_first_by_the_loader_itself(reader: object, files: list[str]) -> None:
    image = LoadImage(reader=reader, ensure_channel_first=True)(files)
    assert image.shape == (2, 400, 512)
    np.testing.assert_array_equal(image[1].numpy(), noise(400, 512, 2))
    np.testing.assert_allclose(image.pixdim[:2], P)
    assert LoadImage(reader=reader, ensure_channel_first=True)(files[0]).shape == (2, 400, 512)


def test_an_unknown_pixel_size_is_one_pixel_and_says_so(tmp_path: Path) -> None:
    image = LoadImage(reader=SEMReader, ensure_channel_first=True)(pair(tmp_path))
    np.testing.assert_array_equal(image.pixdim[:2], 1)
    assert image.meta["xyzt_units"] == 0 and math.isnan(image.meta["pixel_size_um"])
    known = LoadImage(reader=SEMReader(0.005), ensure_channel_first=True)(pair(tmp_path))
    np.testing.assert_allclose(known.pixdim[:2], 0.005)
    assert (known.meta["xyzt_units"], known.meta["pixel_size_um"]) == (3, 0.005)


def test_16_bit_survives_the_loader(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(dtype=np.uint16))
    image = LoadImage(reader=SEMReader, ensure_channel_first=True)(path)
    np.testing.assert_array_equal(image[0].numpy(), noise(dtype=np.uint16))


def test_the_data_loader_collates_known_and_unknown(files: list[str], tmp_path: Path) -> None:
    plain = [str(path) for path in pair(tmp_path / "b")]
    for name in ("1", "2"):
        write(tmp_path / f"c_{name}.tif", noise(400, 512), None)
    items = [{"image": files}, {"image": [str(tmp_path / f"c_{name}.tif") for name in "12"]}]
    load = LoadImaged("image", reader=SEMReader, ensure_channel_first=True)
    batch = next(iter(DataLoader(Dataset(items, load), batch_size=2, num_workers=0)))["image"]
    assert batch.shape == (2, 2, 400, 512)
    assert len(next(iter(DataLoader(Dataset([{"image": plain}], load), num_workers=1)))["image"]) == 1


def test_outputs_are_named_after_the_first_file(files: list[str], tmp_path: Path) -> None:
    item = LoadImaged("image", reader=SEMReader, ensure_channel_first=True)({"image": files})
    SaveImaged(
        "image", output_dir=tmp_path / "out", output_postfix="x", separate_folder=False, print_log=False
    )(item)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_001_x.nii.gz"]


def test_suffixes() -> None:
    reader = SEMReader()
    assert (
        reader.verify_suffix("a.tif")
        and reader.verify_suffix(("a.TIFF", Path("b.Tif")))
        and reader.verify_suffix("a.PNG")
    )
    assert not any(reader.verify_suffix(name) for name in ("a.nii.gz", ["a.tif", "b.jpg"], "tif"))


def test_no_other_reader_takes_over_what_this_one_refuses(tmp_path: Path) -> None:
    """MONAI goes on to Pillow when read() raises, and Pillow reads colour and transposes."""
    colour = np.zeros((20, 30, 3), np.uint8)
    colour[5:9] = (255, 0, 0)
    paths = [write(tmp_path / f"a_{n}.tif", colour, photometric="rgb") for n in (1, 2)]
    with pytest.raises(InputError, match="colour"):
        LoadImage(reader=SEMReader)(paths)


# Scanning a folder ---------------------------------------------------------------------------------------


def test_scan_goes_on_after_a_bad_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair(tmp_path, tags=(INLENS, SE2))  # swapped: the odd file still comes first and gives the name
    pair(tmp_path, ("b_1.tif", "b_2.tif"))
    (tmp_path / "b_2.tif").write_bytes((tmp_path / "b_2.tif").read_bytes()[:-3000])
    write(tmp_path / "c_1.tif", noise(), zeiss("0 nm"))
    write(tmp_path / "c_2.tif", noise())
    write(tmp_path / "d_1.tif", noise())
    with caplog.at_level(logging.WARNING, "carde_monai"):
        found = scan(tmp_path)
    paths = [[str(tmp_path / f"{stem}{number}.tif") for number in (1, 2)] for stem in ("a_00", "c_")]
    assert found.items == [{"image": paths[0], "name": "a_001"}, {"image": paths[1], "name": "c_1"}]
    assert [failure.name for failure in found.failures] == ["d_1", "b_1"]
    assert "d_2.tif is missing" in found.failures[0].reason
    assert "b_2.tif: is truncated" in found.failures[1].reason
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(set(lines)) == 2, "the failures are for the caller to tell"
    for part in ("is impossible", "unknown for 1 of 2"):
        assert sum(part in line for line in lines) == 1, lines
    image = LoadImage(reader=SEMReader, ensure_channel_first=True)(found.items[0]["image"])
    np.testing.assert_array_equal(image.numpy(), [noise(seed=1), noise(seed=0)])


def test_scan_of_one_detector(tmp_path: Path) -> None:
    path = write(tmp_path / "any name.tif", noise())
    for place in (tmp_path, path):
        assert scan(place, 1, 0.01).items == [{"image": [str(path), str(path)], "name": "any name"}]


def test_scan_of_nothing_usable(tmp_path: Path) -> None:
    write(tmp_path / "a_1.tif", noise())
    with pytest.raises(InputError, match=r"no usable micrograph \(a_1: .*a_2.tif is missing"):
        scan(tmp_path)


def test_what_the_generator_writes_is_read_back(tmp_path: Path) -> None:
    synthesize(tmp_path, 2, (200, 264), "jfl", 5)
    found = scan(tmp_path)
    assert found.failures == [] and len(found.items) == 2
    for item in found.items:
        image = read_micrograph(item["image"])
        frame = tifffile.imread(item["image"][0])
        assert image.pixels.shape == (2, 200, 264)
        assert image.info_bar_rows == len(frame) - 200
        assert image.pixel_size_um == pytest.approx(P, rel=1e-3)
        assert image.detectors == ("SESI", "InLens")
        assert image.warnings == ()
