"""`carde_monai.segment` against what ``carde-monai segment`` writes for the same frames."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image

import carde_monai
from carde_monai import bundles
from carde_monai.errors import InputError
from carde_monai.sem import find_micrographs, read_micrograph

Array = np.ndarray


@pytest.fixture(scope="module")
def frame(raw: Path) -> Array:
    """(2, H, W) greys of a micrograph without its info bar."""
    return read_micrograph([raw / "jfl_001.tif", raw / "jfl_002.tif"]).pixels


def files_of(folder: Path, name: str) -> tuple[Array, Array]:
    with Image.open(folder / f"{name}_mask.png") as picture:
        mask = np.asarray(picture) > 0
    return mask, tifffile.imread(folder / f"{name}_probability.tif")


@pytest.mark.parametrize("detectors", [1, 2])
def test_it_finds_what_the_command_line_finds(detectors, raw, tmp_path) -> None:
    some = tmp_path / "raw"
    some.mkdir()
    for number in (1, 2):
        shutil.copy(raw / f"jfl_{number:03}.tif", some)
    settings = {"dataset_dir": str(some), "output_dir": str(tmp_path / "out"), "detectors": detectors}
    bundles.run(bundles.packaged_bundle(), ["inference", "sem", "segment"], settings, training=False)
    table = pd.read_csv(tmp_path / "out" / "particles.csv")
    micrographs = find_micrographs(some, detectors)[0]
    assert len(micrographs) == 2 / detectors
    for one in micrographs:
        image = read_micrograph(one.paths)
        greys = image.pixels if detectors == 2 else image.pixels[:1]
        found = carde_monai.segment(*greys, pixel_size=image.pixel_size_um)
        mask, probability = files_of(tmp_path / "out", one.name)
        assert found.mask.dtype == bool and found.probability.dtype == np.float32 and mask.any()
        np.testing.assert_array_equal(found.mask, mask)
        np.testing.assert_array_equal(found.probability, probability)
        theirs = table[table["micrograph"] == one.name].drop(columns=["micrograph", "sample"])
        ours = found.carbides()
        assert list(ours) == list(theirs)
        np.testing.assert_allclose(ours.to_numpy(float), theirs.to_numpy(float), rtol=1e-5)


def test_the_pixel_size_scales_the_table(frame) -> None:
    found = carde_monai.segment(*frame, pixel_size=0.01)
    twice = carde_monai.segment(*frame, pixel_size=0.02)
    np.testing.assert_allclose(twice.carbides()["area_um2"], 4 * found.carbides()["area_um2"])
    pixels = carde_monai.segment(*frame).carbides(min_area=1)
    assert pixels["area_px2"].sum() == found.mask.sum() and "area_um2" not in pixels
    assert (found.carbides(min_area=20)["area_um2"] >= 20 * 0.01**2).all()


@pytest.mark.parametrize("kind", ["uint16", "int32", "float32", "float64"])
def test_the_greys_may_have_any_unit(kind, frame) -> None:
    """Quartiles normalise them: gain and offset change nothing but the rounding."""
    found = carde_monai.segment(*(frame.astype(kind) * 3 + 7))
    expected = carde_monai.segment(*frame)
    np.testing.assert_allclose(found.probability, expected.probability, atol=2e-3)


def test_one_detector_fills_both_channels(frame) -> None:
    kept = frame[0].copy()
    alone = carde_monai.segment(kept)
    both = carde_monai.segment(frame[0], frame[0])
    np.testing.assert_array_equal(alone.probability, both.probability)
    assert alone.image.shape == frame.shape
    np.testing.assert_array_equal(kept, frame[0])


def test_a_bundle_of_an_earlier_version_and_new_weights(frame, tmp_path) -> None:
    bundle = Path(shutil.copytree(bundles.packaged_bundle(), tmp_path / "bundle"))
    (bundle / "configs" / "in_memory.json").unlink()
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    fast = config | {"engine": "torch", "window_size": [64, 64]}
    (bundle / "configs" / "inference.json").write_text(json.dumps(fast))
    assert 0 < carde_monai.segment(*frame, bundle=bundle).mask.mean() < 0.5
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    weights["final_conv.bias"] += 100
    torch.save(weights, bundle / "models" / "model.pt")
    assert carde_monai.segment(*frame, bundle=bundle).mask.all()
    weights["final_conv.bias"] *= torch.nan
    torch.save(weights, bundle / "models" / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt: the network's output is not a number"):
        carde_monai.segment(*frame, bundle=bundle)
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(InputError, match=r"model\.pt: there are no such weights; train first"):
        carde_monai.segment(*frame, bundle=bundle)


def test_overlays_by_name_and_by_path(frame, tmp_path) -> None:
    """The mean over the eight symmetries turns with the image."""
    small = tmp_path / "small.json"
    small.write_text('{"window_size": [64, 64]}')
    found = carde_monai.segment(*frame, overlay=f"tta,{small}")
    turned = carde_monai.segment(*np.rot90(frame, 2, (1, 2)), overlay=f"tta,{small}")
    np.testing.assert_allclose(np.rot90(turned.probability, 2), found.probability, atol=1e-3)
    plain = carde_monai.segment(*frame, overlay=str(small))
    assert abs(plain.probability - found.probability).max() > 0.01


GREYS = np.arange(48, dtype=np.uint8).reshape(6, 8)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"se2": np.zeros((6, 8))}, r"^se2: has the same grey \(0\) in 100 % of its pixels; scan it again"),
        ({"se2": GREYS, "inlens": np.ones((6, 8))}, r"^inlens: has the same grey \(1\)"),
        ({"se2": np.stack([GREYS] * 3, -1)}, r"^se2: has the shape \(6, 8, 3\), not \(H, W\)"),
        ({"se2": GREYS[:0]}, r"^se2: has the shape \(0, 8\)"),
        ({"se2": "a.tif"}, r"^se2: has the shape \(\), not \(H, W\)"),
        ({"se2": GREYS, "inlens": GREYS[:4]}, r"^se2 and inlens: differ in size \(8 x 6 and 8 x 4 px\)"),
        ({"se2": np.where(GREYS > 5, GREYS, np.nan)}, "^se2: has pixels that are no number"),
        ({"se2": np.where(GREYS > 5, GREYS, 1e300)}, "^se2: has pixels that are no number"),
        ({"se2": GREYS > 5}, "^se2: holds bool, no greys"),
        ({"se2": GREYS + 1j}, "^se2: holds complex128, no greys"),
        ({"se2": GREYS, "pixel_size": -1}, "-1 is no pixel size; give micrometres"),
        ({"se2": GREYS, "bundle": "nowhere"}, "^nowhere: there is no such bundle"),
        ({"se2": GREYS, "overlay": "tts"}, r"tts\.json: there is no such file"),
    ],
)
def test_mistakes_are_told_in_one_line(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        carde_monai.segment(**given)
    assert "\n" not in str(caught.value)


def test_the_package_loads_without_torch() -> None:
    program = (
        "import sys, carde_monai; assert not {'torch', 'numpy', 'monai'} & set(sys.modules)\n"
        "try: carde_monai.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
        "else: raise AssertionError"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
