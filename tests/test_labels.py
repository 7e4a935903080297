"""A label file of any known kind becomes the mask that was drawn; a doubtful one is refused with a remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from carde_monai.errors import InputError
from carde_monai.labels import LabelRule, find_label, find_raw_label, read_label

MASK = np.zeros((6, 8), bool)
MASK[1:4, 2:7] = True
CYAN = (128, 255, 255)
IMAGE = Path("image.tif")


def _save(path: Path, pixels: npt.NDArray[np.generic]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def _drawn(colour: tuple[int, int, int], rows: int = 6) -> npt.NDArray[np.uint8]:
    """A grey frame with the mask filled in a colour."""
    frame = np.repeat(np.random.default_rng(0).integers(0, 256, (rows, 8, 1), np.uint8), 3, axis=2)
    frame[:6][MASK] = colour
    return frame


@pytest.mark.parametrize(
    ("pixels", "rule"),
    [
        (np.uint8(255) * MASK, {}),
        (np.uint8(1) * MASK, {}),
        (np.uint8(37) * MASK, {}),
        (np.uint16(60000) * MASK, {}),
        (MASK, {}),
        (np.repeat((np.uint8(255) * MASK)[..., None], 3, axis=2), {}),
        (np.where(MASK, 2, [0, 1, 3, 1] * 2).astype(np.uint8), {"value": 2}),
        (np.where(MASK, [1, 3] * 4, [0, 2] * 4).astype(np.uint8), {"value": "1,3"}),
        (np.where(MASK, [1, 3] * 4, [0, 2] * 4).astype(np.uint8), {"value": (1, 3)}),
        (np.where(MASK, 0, 255).astype(np.uint8), {"value": 0}),
        (np.where(MASK, 2, 1).astype(np.uint8), {"value": "2"}),
        (_drawn(CYAN), {"colour": "128,255,255"}),
        (_drawn((125, 252, 255)), {"colour": CYAN}),
        (_drawn((200, 10, 10)), {"colour": [200, 10, 10]}),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_every_kind_of_label_gives_the_mask(
    tmp_path: Path, pixels: npt.NDArray[np.generic], rule: dict[str, object], suffix: str
) -> None:
    if suffix == "bmp" and pixels.dtype == np.uint16:
        pytest.skip("BMP holds 8 bits")
    path = _save(tmp_path / f"label.{suffix}", pixels)
    mask = read_label(path, MASK.shape, 0, LabelRule.parse(**rule), IMAGE)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, MASK)


def test_a_palette_gives_indices_or_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(np.where(MASK, 2, 0).astype(np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 1, 1, 1, 200, 100, 0])
    picture.save(tmp_path / "label.png")
    for rule in (LabelRule(), LabelRule(values=(2,)), LabelRule(colour=(200, 100, 0))):
        np.testing.assert_array_equal(read_label(tmp_path / "label.png", MASK.shape, 0, rule, IMAGE), MASK)


def test_an_empty_label_is_an_empty_mask(tmp_path: Path) -> None:
    path = _save(tmp_path / "label.png", np.zeros((6, 8), np.uint8))
    assert not read_label(path, MASK.shape, 0, LabelRule(), IMAGE).any()
    assert not read_label(path, MASK.shape, 0, LabelRule(values=(1,)), IMAGE).any()


def test_outlines_are_not_filled(tmp_path: Path) -> None:
    ring = MASK.copy()
    ring[2, 3:6] = False
    path = _save(tmp_path / "label.png", np.uint8(255) * ring)
    np.testing.assert_array_equal(read_label(path, MASK.shape, 0, LabelRule(), IMAGE), ring)


def test_a_label_of_the_full_frame_is_cut_like_the_frame(tmp_path: Path) -> None:
    frame = _drawn(CYAN, rows=9)
    frame[7, :] = CYAN  # in the information bar
    path = _save(tmp_path / "label.bmp", frame)
    np.testing.assert_array_equal(read_label(path, MASK.shape, 3, LabelRule(colour=CYAN), IMAGE), MASK)


@pytest.mark.parametrize(
    ("pixels", "rule", "message"),
    [
        (np.full((6, 8), 255, np.uint8), {}, r"is 255 throughout; mark particles other than 0"),
        (np.ones((6, 8), bool), {}, "is 255 throughout"),
        (
            np.arange(48, dtype=np.uint8).reshape(6, 8) % 7,
            {},
            r"holds the values 0, 1, .*, ...; .*--label_value 1",
        ),
        (np.arange(48, dtype=np.uint8).reshape(6, 8), {}, "holds 48 grey values; save it with two"),
        (np.where(MASK, 2, 1).astype(np.uint8), {}, r"holds 1 and 2 but no 0; .*--label_value 2"),
        (_drawn(CYAN), {}, r"is coloured; .*--label_color R,G,B \(it holds 128,255,255\)"),
        (_drawn((200, 10, 10)), {"colour": CYAN}, r"nothing is drawn in 128,255,255; .*holds 200,10,10"),
        (np.uint8(255) * MASK, {"colour": CYAN}, r"nothing is drawn in .*it is all grey"),
        (np.zeros((7, 8), np.uint8), {}, r"8 x 7 px but image.tif has 8 x 6; draw"),
        (np.zeros((6, 8, 4), np.uint8), {}, "is partly transparent"),
    ],
)
def test_doubtful_labels_are_refused(
    tmp_path: Path, pixels: npt.NDArray[np.generic], rule: dict[str, object], message: str
) -> None:
    path = _save(tmp_path / "label.png", pixels)
    with pytest.raises(InputError, match=rf"label.png: {message}"):
        read_label(path, MASK.shape, 0, LabelRule.parse(**rule), IMAGE)


def test_both_heights_are_named(tmp_path: Path) -> None:
    path = _save(tmp_path / "label.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(InputError, match=r"8 x 8 px but image.tif has 8 x 6 \(9 with the information bar\)"):
        read_label(path, MASK.shape, 3, LabelRule(), IMAGE)


def test_a_broken_label_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "label.png"
    _save(path, np.random.default_rng(0).integers(0, 2, (99, 99), np.uint8) * np.uint8(255))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"label.png: cannot be read as a picture"):
        read_label(path, (99, 99), 0, LabelRule(), IMAGE)
    path.write_text("no picture")
    with pytest.raises(InputError, match=r"label.png: cannot be read as a picture"):
        read_label(path, (99, 99), 0, LabelRule(), IMAGE)


def test_a_compressed_tiff_is_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "label.tif", np.uint8(255) * MASK, compression="zlib")
    np.testing.assert_array_equal(read_label(tmp_path / "label.tif", MASK.shape, 0, LabelRule(), IMAGE), MASK)


@pytest.mark.parametrize(
    ("rule", "option"),
    [
        ({"value": "one"}, "--label_value"),
        ({"value": -1}, "--label_value"),
        ({"value": ()}, "--label_value"),
        ({"colour": "128,255"}, "--label_color"),
        ({"colour": (128, 255, 256)}, "--label_color"),
        ({"colour": "cyan"}, "--label_color"),
        ({"value": 1, "colour": CYAN}, "--label_value"),
    ],
)
def test_bad_options_are_named(rule: dict[str, object], option: str) -> None:
    with pytest.raises(InputError, match=rf"^{option}: "):
        LabelRule.parse(**rule)


def test_value_0_is_a_value() -> None:
    assert LabelRule.parse(value=0) == LabelRule(values=(0,))


def test_labels_are_found_by_any_stem_in_the_order_of_the_folders(tmp_path: Path) -> None:
    images, other = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    other.mkdir()
    paths = [images / "a_001.tif", images / "a_002.tif"]
    assert find_label("a_001", paths, [images, other, tmp_path / "none"]) is None
    (images / "a_001.png").touch()  # without _label it is no label where the images are
    assert find_label("a_001", paths, [images, other]) is None
    for name in ("a_002_label.TIF", "b_label.png", "a_001_label.txt"):
        (other / name).touch()
    assert find_label("a_001", paths, [images, other]) == other / "a_002_label.TIF"
    (images / "a_001_label.bmp").touch()
    assert find_label("a_001", paths, [images, other]) == images / "a_001_label.bmp"
    (other / "a_001.png").touch()
    with pytest.raises(InputError, match=r"a_001.png: a_002_label.TIF is a label of the same micrograph"):
        find_label("a_001", paths, [other, images])


def test_raw_labels_belong_to_a_single_micrograph(tmp_path: Path) -> None:
    image = tmp_path / "01-02/Original SEM Images/x_001.tif"
    image.parent.mkdir(parents=True)
    assert find_raw_label(image, alone=True) is None
    label = tmp_path / "01-02/steps/05a_Particle_Image_Filtered.BMP"
    label.parent.mkdir()
    label.touch()
    assert find_raw_label(image, alone=True) == label
    assert find_raw_label(tmp_path / "elsewhere/x_001.tif", alone=True) is None
    with pytest.raises(InputError, match="holds several micrographs"):
        find_raw_label(image, alone=False)
    (tmp_path / "01-02/05a_Particle_Image_Filtered.bmp").touch()
    with pytest.raises(InputError, match="is a label of the same micrograph"):
        find_raw_label(image, alone=True)
