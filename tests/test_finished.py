"""What is finished is not done again, and what has changed in any way is."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from carde_monai import bundles, datalist, draft, finished, nifti, provenance
from carde_monai import prepare as preparing
from carde_monai.errors import InputError
from carde_monai.prepare import prepare
from carde_monai.synthetic import synthesize

SIZE = (96, 120)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four small micrographs with labels: jfl_001, 003, 005, 007."""
    synthesize(tmp_path / "raw", 4, SIZE, "jfl", seed=1)
    return tmp_path / "raw"


def append(file: Path) -> None:
    """Change a file, but nothing that is read of it."""
    with file.open("ab") as stream:
        stream.write(b"\0")


@pytest.fixture
def segment(source: Path, trained: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Segments into the same folder; returns the micrographs that were not finished."""
    for number in (5, 6, 7, 8):
        (source / f"jfl_00{number}.tif").unlink()
    bundle = Path(shutil.copytree(trained, tmp_path / "bundle"))

    def run(**overrides: Any) -> list[str]:
        places = {"dataset_dir": str(source), "output_dir": str(tmp_path / "out")}
        settings = places | {"window_size": [64, 64]} | overrides
        workflow = bundles.run(bundle, ["inference", "sem", "segment"], settings, training=False)
        return workflow.parser.get_parsed_content("writer").written

    assert run() == ["jfl_001", "jfl_003"]
    return run


def test_segment_does_again_what_has_changed_and_nothing_else(segment, source, tmp_path, monkeypatch) -> None:
    out, both = tmp_path / "out", ["jfl_001", "jfl_003"]
    table = (out / "particles.csv").read_bytes()
    assert segment() == []
    assert (out / "particles.csv").read_bytes() == table
    assert segment(min_area=50) == []  # another measurement, the same masks
    assert (out / "particles.csv").read_bytes() != table
    append(source / "jfl_004.tif")  # the other detector
    assert segment() == ["jfl_003"]
    append(out / "jfl_001_mask.png")
    assert segment() == ["jfl_001"]
    (out / "jfl_001_probability.tif").unlink()
    (out / ".finished" / "jfl_003.json").write_text("{")
    assert segment() == both
    assert segment(overwrite=True) == both
    assert segment(**{"window#overlap": 0.3}) == both
    weights = tmp_path / "bundle" / "models" / "model.pt"
    state = torch.load(weights, weights_only=True)
    state["final_conv.bias"] += 0.1
    torch.save(state, weights)
    assert segment(**{"window#overlap": 0.3}) == both
    monkeypatch.setattr(provenance, "code_digest", lambda: "other code of this version")
    assert segment(**{"window#overlap": 0.3}) == both
    monkeypatch.setattr(provenance, "version", {"torch": "3.0", "openvino": "1", "monai": "1"}.get)
    assert segment(**{"window#overlap": 0.3}) == both
    assert segment(**{"window#overlap": 0.3}) == []
    assert segment(**{"window#overlap": 0.3, "engine": "torch"}) == both


def test_a_micrograph_that_changes_meanwhile_is_not_finished(segment, source, monkeypatch) -> None:
    append(source / "jfl_001.tif")
    mark = finished.FinishedMicrographs.mark

    def change(self: Any, name: str, files: Any) -> None:
        append(source / "jfl_001.tif")
        mark(self, name, files)

    with monkeypatch.context() as patch:
        patch.setattr(finished.FinishedMicrographs, "mark", change)
        assert segment() == ["jfl_001"]
    assert segment() == ["jfl_001"]
    assert segment() == []


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the micrographs that prepare has converted; clear it between calls."""
    names: list[str] = []
    convert = preparing._convert

    def note(one: Any, *args: Any) -> Any:
        names.append(one.name)
        return convert(one, *args)

    monkeypatch.setattr(preparing, "_convert", note)
    return names


def test_prepare_does_again_what_has_changed_and_nothing_else(
    source, converted, tmp_path, monkeypatch
) -> None:
    dest, every = tmp_path / "data", ["jfl_001", "jfl_003", "jfl_005", "jfl_007"]

    def again(**options: Any) -> list[str]:
        converted.clear()
        assert prepare(source, dest, split="2,1,1", **options) == []
        return list(converted)

    assert again() == every
    before = content(dest)
    assert again() == [] and content(dest) == before
    append(source / "jfl_002.tif")
    assert again() == ["jfl_001"] and content(dest).keys() == before.keys()
    label = np.zeros(SIZE, np.uint8)
    label[10:20, 10:20] = 255
    Image.fromarray(label).save(source / "jfl_003_label.png")
    assert again() == ["jfl_003"]
    (dest / "quicklook" / "jfl_005.png").unlink()
    assert again() == ["jfl_005"]
    assert again(pixel_size=0.01) == every
    assert again(pixel_size=0.01, overwrite=True) == every
    monkeypatch.setattr(provenance, "code_digest", lambda: "other code of this version")
    assert again(pixel_size=0.01) == every
    (source / "jfl_007.tif").unlink()
    (source / "jfl_008.tif").unlink()
    assert again(pixel_size=0.01) == []
    assert not [name for name in content(dest) if "jfl_007" in name]


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones, too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Killed(BaseException):
    """Ends prepare as SIGKILL does, as far as files are concerned."""


def test_prepare_killed_at_any_replacement_of_a_data_set(source, tmp_path, monkeypatch) -> None:
    other = tmp_path / "other"
    synthesize(other, 3, SIZE, "anp", seed=2)
    for name in ("jfl_001", "jfl_002", "jfl_001_label"):  # the same
        for file in source.glob(f"{name}.*"):
            shutil.copy(file, other)
    prepare(other, tmp_path / "former", split="2,1,1")
    prepare(source, tmp_path / "new", split="2,1,1")
    former, new = content(tmp_path / "former"), content(tmp_path / "new")
    replace, states = os.replace, set()
    for last in range(100):
        dest, left = tmp_path / str(last), iter(range(last))
        shutil.copytree(tmp_path / "former", dest)

        def die(source: Any, target: Any, left: Any = left) -> None:
            if next(left, None) is None:
                raise Killed
            replace(source, target)

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(os, "replace", die)
            prepare(source, dest, split="2,1,1")
        state = state_of(dest, former, new)
        states.add(state)
        prepare(source, dest, split="2,1,1")
        assert content(dest) == new
        shutil.rmtree(dest)
        if next(left, None) is not None:
            break
    assert states == {"former", "none", "new"}


def state_of(dest: Path, former: dict[str, bytes], new: dict[str, bytes]) -> str:
    """Which data set a folder holds, and that it holds this one whole; none is refused by all."""
    visible = {name: data for name, data in content(dest).items() if not name.startswith(draft.HIDDEN)}
    for name, whole in (("former", former), ("new", new)):
        if visible.get(datalist.FILE) == whole[datalist.FILE]:
            assert visible == whole
            nifti.scan(dest)
            return name
    with pytest.raises(InputError):
        nifti.scan(dest)
    with pytest.raises(InputError):
        datalist.load(dest, "training")
    return "none"
