"""The writer on a real evaluator loop: names, pixel sizes, and micrographs that cannot be written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from PIL import Image

from carde_monai.handlers import segmentation
from carde_monai.handlers.segmentation import SegmentationWriter, micrograph_name, pixel_size_um, source_file

SIZE = (40, 56)


def raw(file: object = None, pixel_size: float | None = None, code: Any = None) -> MetaTensor:
    """Raw greys as LoadImage gives them for a prepared micrograph, after the z axis is gone."""
    p = pixel_size or 1.0
    affine = torch.tensor([[0, -p, 0, 0], [-p, 0, 0, 0], [0, 0, p, 0], [0, 0, 0, 1]], dtype=torch.float64)
    meta = {"filename_or_obj": file, "xyzt_units": (3 if pixel_size else 0) if code is None else code}
    return MetaTensor(torch.randint(0, 256, (2, *SIZE), dtype=torch.uint8), affine=affine, meta=meta)


def item(name: str | None = None, file: object = None, pixel_size: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"raw": raw(file, pixel_size)}
    return found if name is None else found | {"name": name}


def segment(
    writer: SegmentationWriter,
    batches: Iterable[list[dict[str, Any]]],
    value: float = 0.9,
    after: Mapping[Events, Callable[[Engine], None]] | None = None,
) -> None:
    """Run an engine that gives every pixel of the left half the probability ``value``.

    ``after`` are handlers that come after the writer's.
    """

    def step(engine: Engine, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        engine.state.batch = batch
        probability = torch.zeros(1, *SIZE)
        probability[..., : SIZE[1] // 2] = value
        return [{"probability": MetaTensor(probability)} for _ in batch]

    engine = Engine(step)
    writer.attach(engine)
    for event, handler in (after or {}).items():
        engine.add_event_handler(event, handler)
    engine.run(batches)


def mask(folder: Path, name: str) -> np.ndarray:
    with Image.open(folder / f"{name}_mask.png") as picture:
        return np.asarray(picture)


def test_every_item_is_written_with_its_pixel_size(tmp_path: Path) -> None:
    writer = SegmentationWriter(tmp_path)
    segment(writer, [[item("a", pixel_size=0.00698), item("b")], [item(file="/data/WD_6.5mm_001.nii.gz")]])
    assert writer.written == ["a", "b", "WD_6.5mm_001"] and writer.failures == []
    assert len(list(tmp_path.iterdir())) == 12
    for name in writer.written:
        assert mask(tmp_path, name).shape == SIZE
        assert (mask(tmp_path, name)[:, :28] == 255).all() and (mask(tmp_path, name)[:, 28:] == 0).all()
    with tifffile.TiffFile(tmp_path / "a_probability.tif") as file:
        assert 1 / file.pages[0].get_resolution()[0] == pytest.approx(0.00698, rel=1e-6)


def test_probability_of_one_half_is_matrix(tmp_path: Path) -> None:
    segment(SegmentationWriter(tmp_path), [[item("a")]], value=0.5)
    assert mask(tmp_path, "a").max() == 0


def test_what_cannot_be_written_is_listed_and_the_rest_done(tmp_path: Path) -> None:
    writer = SegmentationWriter(tmp_path)
    broken = item("broken") | {"raw": MetaTensor(torch.zeros(2, 8, 8))}
    segment(writer, [[item("x" * 300), item("a/b")], [broken, item("good")]])
    assert writer.written == ["good"]
    assert [failure.name for failure in writer.failures] == ["x" * 300, "a/b", "broken"]
    assert "too long" in writer.failures[0].reason and "rename" in writer.failures[1].reason
    assert len(list(tmp_path.iterdir())) == 4


def test_a_folder_that_cannot_be_made_fails_every_micrograph(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    writer = SegmentationWriter(tmp_path / "file")
    segment(writer, [[item("a"), item("b")]])
    assert [failure.name for failure in writer.failures] == ["a", "b"] and writer.written == []


def test_two_micrographs_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    writer = SegmentationWriter(tmp_path)
    segment(writer, [[item("a", "/one/a.tif")], [item("a", "/two/a.tif")]])
    assert writer.written == ["a"]
    assert [failure.name for failure in writer.failures] == ["a"]
    assert writer.failures[0].reason.startswith("/two/a.tif: shares its name")
    segment(writer, [[item("b"), item("b")]])  # of unknown origin
    assert [failure.name for failure in writer.failures] == ["b"]


def test_a_repetition_of_the_same_file_is_no_clash(tmp_path: Path) -> None:
    writer = SegmentationWriter(tmp_path, overwrite=False)
    segment(writer, [[item("a", "/one/a.tif"), item("a", "/one/a.tif")]])
    assert writer.written == ["a"] and writer.failures == []


def test_a_second_run_overwrites_or_not(tmp_path: Path) -> None:
    segment(SegmentationWriter(tmp_path), [[item("a")]])
    keep = SegmentationWriter(tmp_path, overwrite=False)
    segment(keep, [[item("a"), item("b")]], value=0.1)
    assert [failure.name for failure in keep.failures] == ["a"] and keep.written == ["b"]
    assert mask(tmp_path, "a").max() == 255
    replace = SegmentationWriter(tmp_path)
    for _ in range(2):  # a new run of the same writer starts anew
        segment(replace, [[item("a")]], value=0.1)
    assert replace.failures == [] and mask(tmp_path, "a").max() == 0


def test_a_micrograph_is_written_while_the_next_is_segmented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, going, most = threading.Event(), [], []
    write = segmentation.write_segmentation

    def slow(name: str, *args: Any) -> list[Path]:
        going.append(name)
        most.append(len(going))
        if name == "a":
            assert started.wait(60), "the second micrograph waits for the first"
        paths = write(name, *args)
        going.remove(name)
        return paths

    monkeypatch.setattr(segmentation, "write_segmentation", slow)

    def batches() -> Iterator[list[dict[str, Any]]]:
        yield [item("a")]
        started.set()
        yield [item("b")]
        yield [item("c")]

    writer = SegmentationWriter(tmp_path)
    segment(writer, batches())
    assert writer.written == ["a", "b", "c"] and writer.failures == []
    assert most == [1, 1, 1] and len(list(tmp_path.iterdir())) == 12  # one at a time, all done


def test_other_handlers_find_everything_written_at_the_end(tmp_path: Path) -> None:
    seen: list[Any] = []
    (tmp_path / "b_mask.png").mkdir()  # in the way
    for stop in (False, True):
        writer = SegmentationWriter(tmp_path)

        def look(engine: Engine, writer: SegmentationWriter = writer) -> None:
            seen.append(([one.name for one in writer.failures], list(writer._sources)))

        def terminate(engine: Engine, stop: bool = stop) -> None:
            if stop:
                engine.terminate()

        segment(writer, [[item("a"), item("b")]], after={Events.ITERATION_COMPLETED: terminate})
        segment(writer, [[item("a"), item("b")]], after={Events.COMPLETED: look})
        assert seen.pop() == (["b"], ["a"]) and writer.written == ["a"]


def test_a_mistake_in_the_program_is_not_lost_with_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(segmentation, "write_segmentation", broken)
    with pytest.raises(ZeroDivisionError):
        segment(SegmentationWriter(tmp_path), [[item("a")]])


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("/data/WD_06mm_001.nii.gz", "WD_06mm_001"),
        ("/data/WD_6.5mm_001.TIF", "WD_6.5mm_001"),
        (["/data/WD_06mm_001.tif", "/data/WD_06mm_002.tif"], "WD_06mm_001"),
        (Path("a.b.png"), "a.b"),
    ],
)
def test_the_name_falls_back_on_the_file(file: object, name: str) -> None:
    assert micrograph_name(item(file=file)) == name
    assert micrograph_name(item("given", file)) == "given"


def test_a_micrograph_without_any_name_is_a_mistake_of_the_config() -> None:
    with pytest.raises(KeyError, match="name"):
        micrograph_name(item())
    assert source_file({"raw": torch.zeros(2, 4, 4)}) is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (3, 0.007),
        (np.array(3, np.uint8), 0.007),
        (torch.tensor(3), 0.007),
        (3 + 8, 0.007),
        (0, None),
        (2, None),
    ],
)
def test_the_pixel_size_counts_only_in_microns(code: Any, expected: float | None) -> None:
    assert pixel_size_um(raw(pixel_size=0.007, code=code)) == pytest.approx(expected)
    assert pixel_size_um(torch.zeros(2, 4, 4)) is None
