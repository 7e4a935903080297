"""Where the info bar begins, to the row; and what looks like one and is image."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sem_writer import framed_bar, info_bar, noise

from carde_monai.info_bar import common_info_bar, find_info_bar
from carde_monai.synthetic_tiff import info_bar as zeiss_bar

Array = npt.NDArray[Any]
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZES = [(440, 640), (883, 1024), (704, 1024), (190, 256)]


def _bars(height: int, width: int) -> dict[str, Array]:
    rows = round(0.09 * height)
    light, dark = info_bar(rows, width), info_bar(rows, width, 0, 255)
    border = light.copy()
    border[: max(1, rows // 60)] = 20
    panel = info_bar(rows, width, 40, 200)
    panel[rows // 6 : -(rows // 6), -width // 8 :] = 15  # a logo on its own ground
    return {
        "light": light,
        "dark": dark,
        "border": border,
        "zeiss": zeiss_bar((height, width), 0.007, "SESI"),
        "zeiss inverted": 255 - zeiss_bar((height, width), 0.007, "SESI"),
        "framed": framed_bar(rows, width),
        "framed light": framed_bar(rows, width, 255, 0),
        "panel": panel,
        "grey": info_bar(rows, width, 128, 255),
    }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", _bars(440, 640))
def test_bars_are_found_to_the_row(kind: str, size: tuple[int, int]) -> None:
    bar = _bars(*size)[kind]
    frame = np.vstack([noise(*size, seed=3), bar])
    assert find_info_bar(frame) == len(bar)
    assert find_info_bar(frame.astype(np.uint16) * 257) == len(bar)
    assert find_info_bar(frame.astype(np.uint16) * 16) == len(bar)  # 12 bits of 16


@pytest.mark.parametrize("mean", [5, 60, 110, 200, 250])
@pytest.mark.parametrize("kind", ["light", "dark", "framed"])
def test_bars_below_dark_and_bright_images(kind: str, mean: float) -> None:
    bar = _bars(440, 640)[kind]
    image = noise(440, 640, mean=mean)
    found = find_info_bar(np.vstack([image, bar]))
    if kind != "light" and mean == 5:  # black on black: half of the image is the bar's own black
        assert found in (0, len(bar))
    else:
        assert found == len(bar)


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("kind", ["zeiss", "zeiss inverted", "border", "light", "dark", "grey"])
def test_bars_below_vacuum_and_charging(kind: str, level: int) -> None:
    """The lower part of the image is plain black or white over its whole width, but not as the bar is."""
    bar, image = _bars(440, 640)[kind], noise(440, 640)
    image[-60:] = level
    found = find_info_bar(np.vstack([image, bar]))
    if kind == "dark" and level == 0:  # black on black: where it begins is for the other detector to say
        assert found == 60 + len(bar)
        other = np.vstack([noise(440, 640, seed=1), bar])
        assert common_info_bar([np.vstack([image, bar]), other])[0] == len(bar)
    else:
        assert found == len(bar)


@pytest.mark.parametrize("kind", ["zeiss", "border"])
def test_a_border_as_dark_as_the_image_above_it(kind: str) -> None:
    bar = _bars(440, 640)[kind]
    image = np.random.default_rng(0).normal(20, 6, (440, 640)).clip(0).astype(np.uint8)
    assert find_info_bar(np.vstack([image, bar])) == len(bar)


def test_a_lost_line_above_the_bar() -> None:
    frame = np.vstack([noise(440, 640), info_bar(40, 640)])
    frame[400] = 243
    assert find_info_bar(frame) == 40


@pytest.mark.parametrize("quality", [75, 95])
def test_a_frame_that_was_jpeg_once(quality: int) -> None:
    frame = np.vstack([noise(440, 640), info_bar(40, 640)])
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "jpeg", quality=quality)
    assert abs(find_info_bar(np.asarray(Image.open(stream))) - 40) <= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(300, 600), st.floats(0.03, 0.19), st.integers(0, 999), st.booleans())
def test_any_height(height: int, share: float, seed: int, dark: bool) -> None:
    rows = round(share * height)
    bar = info_bar(rows, 512, *((0, 255) if dark else (243, 20)))
    frame = np.vstack([noise(height - rows, 512, seed=seed), bar])
    assert find_info_bar(frame) == rows


def _with_blob(image: Array) -> Array:
    """A grain saturated by charging, over the whole width of the lower edge, its border slightly curved."""
    rows = np.arange(image.shape[0])[:, None]
    edge = 0.9 * image.shape[0] + 3 * np.sin(np.arange(image.shape[1]) / 60)
    return np.where(rows > edge, 255, image).astype(image.dtype)


def _saturated_scan(share: float) -> Callable[[Array], Array]:
    """The last scan lines came out saturated, but for a share of darker noise."""

    def change(image: Array) -> Array:
        image = image.copy()
        band = image[-len(image) // 10 :]
        band[np.random.default_rng(1).random(band.shape) > share] = 255
        return image

    return change


def _blobs(image: Array) -> Array:
    """Bright carbides at the lower edge and all over."""
    image = image.copy()
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    for row, column, radius in ((470, 100, 60), (479, 400, 90), (440, 600, 30), (200, 200, 70)):
        image[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = 255
    return image


def _rows(level: int, count: int) -> Callable[[Array], Array]:
    """Plain rows without text: an aborted scan, or the fill of a drift correction."""
    return lambda image: np.vstack([image[:-count], np.full((count, image.shape[1]), level, image.dtype)])


def _speck(image: Array) -> Array:
    """Padding in which a bright spot was left."""
    image = _rows(0, 40)(image)
    image[-30:-20, 300:310] = 255
    return image


def _shaded(image: Array) -> Array:
    """Words burnt into an image that brightens slowly towards the lower edge: no step."""
    image = np.repeat(np.linspace(60, 243, len(image)).astype(np.uint8)[:, None], image.shape[1], axis=1)
    image[-40:] = np.minimum(image[-40:], info_bar(40, image.shape[1]))
    return image


def _on_top(image: Array) -> Array:
    return np.vstack([info_bar(40, image.shape[1]), image[:-40]])


def _inset(image: Array) -> Array:
    """A label burnt into the image, narrower than the frame."""
    image = image.copy()
    image[-40:, : image.shape[1] * 3 // 4] = info_bar(40, image.shape[1] * 3 // 4)
    return image


def _half_a_page(image: Array) -> Array:
    return np.vstack([image[:-200], info_bar(200, image.shape[1])])


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: np.full_like(image, 255),
        np.zeros_like,
        lambda image: np.full_like(image, 90),
        _with_blob,
        _blobs,
        *(_saturated_scan(share) for share in (0.0, 0.01, 0.05, 0.2, 0.5)),
        _rows(0, 40),
        _rows(255, 40),
        _rows(243, 3),
        _speck,
        _shaded,
        _on_top,
        _inset,
        _half_a_page,
        lambda image: (image // 128 * 255).astype(np.uint8),
        lambda image: np.sort(image, axis=0),
        lambda image: np.repeat(np.linspace(0, 255, len(image), dtype=np.uint8)[:, None], 640, axis=1),
        lambda image: image[:7, :7],
        lambda image: image[:1],
        lambda image: image[:, :1],
    ],
)
def test_what_is_no_bar_stays(change: Callable[[Array], Array]) -> None:
    image = change(noise(480, 640))
    assert find_info_bar(image) == 0
    assert find_info_bar(image.astype(np.uint16) * 257) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 60))
def test_noise_is_no_bar(seed: int, mean: int, sigma: int) -> None:
    values = np.random.default_rng(seed).normal(mean, sigma, (200, 128))
    assert find_info_bar(np.clip(values, 0, 255).astype(np.uint8)) == 0


def test_detectors_that_agree_or_not() -> None:
    bar = info_bar(40, 640)
    other = bar.copy()
    other[20:30, 300:330] = 20  # another detector's name
    first, second = (np.vstack([noise(440, 640, seed=seed), strip]) for seed, strip in ((1, bar), (2, other)))
    assert common_info_bar([first, second]) == (40, [])
    assert common_info_bar([first]) == (40, [])
    # a black image hides where its black bar begins; the other shows it
    black = np.vstack([np.zeros((440, 640), np.uint8), info_bar(40, 640, 0, 255)])
    hidden = np.vstack([noise(440, 640, mean=60), info_bar(40, 640, 0, 255)])
    assert find_info_bar(black) == 0
    rows, warnings = common_info_bar([hidden, black])
    assert rows in (0, 40) and (rows == 40 or warnings)
    rows, warnings = common_info_bar([first, noise(480, 640)])
    assert rows == 0 and len(warnings) == 1 and "only one" in warnings[0]


def test_a_bar_half_hidden_in_one_detector() -> None:
    first = np.vstack([noise(440, 640, seed=1), info_bar(40, 640)])
    second = np.vstack(
        [noise(440, 640, seed=2), np.full((40, 640), 243, np.uint8)]
    )  # no text: none by itself
    assert find_info_bar(second) == 0
    rows, warnings = common_info_bar([first, second])
    assert rows == 40 and len(warnings) == 1


def test_the_metadata_point_at_the_bar() -> None:
    # only text, too little of it for a bar by itself
    plain = np.vstack([noise(440, 640), np.zeros((40, 640), np.uint8)])
    assert find_info_bar(plain) == 0
    assert common_info_bar([plain, plain], [40, None]) == (40, [])
    # a cut image that kept its tags: below the stated row is image like above
    assert common_info_bar([noise(480, 640)], [40]) == (0, [])
    assert common_info_bar([plain], [300]) == (0, [])
    assert common_info_bar([plain], [2]) == (0, [])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real micrographs are not here")
def test_real_images_without_bar_are_left_whole() -> None:
    places = [SHARED / "uhcs" / "images", *(SHARED / "ni-superalloy").glob("*/images")]
    paths = [path for place in places for path in sorted(place.glob("*.png"))]
    paths += [path for path in SHARED.glob("rpv-examples/tile*.png") if "label" not in path.name]
    assert len(paths) == 40
    found = {}
    for path in paths:
        image = np.asarray(Image.open(path))
        found[path.name] = max(find_info_bar(view) for view in (image, 255 - image, image[::-1], image.T))
    assert {name: rows for name, rows in found.items() if rows} == {}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real micrographs are not here")
def test_the_bar_of_the_target_material() -> None:
    frames = [
        np.asarray(Image.open(SHARED / "rpv-examples" / f"frame_{name}_small.png").convert("L"))
        for name in ("se2", "inlens")
    ]
    assert common_info_bar(frames) == (16, [])  # rows 149 to 164
    for zoom in (2, 4):  # blurred as never from a microscope, but near its size
        size = (zoom * frames[0].shape[1], zoom * frames[0].shape[0])
        large = np.asarray(Image.fromarray(frames[0]).resize(size, Image.Resampling.NEAREST))
        assert find_info_bar(large) == 16 * zoom
