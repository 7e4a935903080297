"""Suggested fields: rankings known beforehand, the greedy choice against determinants, and the way back."""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from ignite.engine import Engine
from PIL import Image
from scipy.spatial.distance import pdist, squareform
from sem_writer import info_bar, noise, write, zeiss

from carde_monai import bundles
from carde_monai.errors import InputError, user_mistake
from carde_monai.prepare import prepare
from carde_monai.sem import read_micrograph, scan
from carde_monai.suggest import Suggestions, unlabelled
from carde_monai.suggest_files import PackedMask, read_places
from carde_monai.suggest_ranking import Candidate, Place, candidates, choose, entropy, fields

SIZE = (96, 128)
PIXEL_UM = 0.00698


def half(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def candidate(
    information: float,
    look: Sequence[float],
    micrograph: str = "a",
    row: int = 0,
    shared: float | None = None,
) -> Candidate:
    place = Place(micrograph, row, 0, 10, 10)
    return Candidate(place, information, shared, np.array(look, float))


def test_entropy_worked_out_by_hand() -> None:
    found = entropy(np.array([[0, 0.2, 0.5, 1]], np.float32))
    assert found.tolist()[0] == pytest.approx([0, half(0.2), math.log(2), 0], abs=1e-6)


def test_fields_cover_the_frame() -> None:
    found = fields("a", (1404, 2048), 512)
    assert [(one.row, one.column) for one in found[:5]] == [(0, 0), (0, 512), (0, 1024), (0, 1536), (446, 0)]
    assert len(found) == 12 and found[-1] == Place("a", 892, 1536, 512, 512)
    seen = np.zeros((1404, 2048), int)
    for one in found:
        one.cut(seen)[...] += 1
    assert seen.min() == 1
    assert fields("a", (96, 700), 512) == [Place("a", 0, 0, 96, 512), Place("a", 0, 188, 96, 512)]
    assert fields("a", SIZE, None) == [Place("a", 0, 0, *SIZE)]


def test_fields_overlap_where_they_share_a_pixel() -> None:
    one = Place("a", 0, 0, 10, 10)
    assert one.overlaps(one) and one.overlaps(Place("a", 9, 9, 10, 10))
    assert not one.overlaps(Place("a", 10, 0, 10, 10)) and not one.overlaps(Place("b", 0, 0, 10, 10))


def test_the_least_certain_field_comes_first() -> None:
    """Four fields of one frame, whose probabilities are known; its greys are alike everywhere."""
    probability = np.full((128, 128), 0.01, np.float32)
    for (row, column), p in {(0, 0): 0.2, (0, 64): 0.5, (64, 0): 0.9, (64, 64): 0.01}.items():
        probability[row : row + 64, column : column + 64] = p
    greys = np.stack([noise(128, 128, seed) for seed in (0, 1)])
    pool = candidates("a", greys, probability, None, 64)
    assert [one.entropy for one in pool] == pytest.approx([half(p) for p in (0.2, 0.5, 0.9, 0.01)], abs=1e-6)
    first = choose(pool, 1)[0]
    assert (first.candidate.place.row, first.candidate.place.column) == (0, 64)
    assert first.score == pytest.approx(math.log(2), abs=1e-6)
    found = choose(pool, 9)
    assert len(found) == 4 and found[0] == first
    assert all(one.score >= other.score for one, other in itertools.pairwise(found))


def test_disagreement_counts_where_there_is_one() -> None:
    """The left half is unsure, but all members agree on it; on the right half they do not."""
    probability = np.full((64, 128), 0.1, np.float32)
    probability[:, :64] = 0.5
    disagreement = np.zeros_like(probability)
    disagreement[:, 64:] = 0.02
    greys = np.stack([noise(64, 128, seed) for seed in (0, 1)])
    best, other = choose(candidates("a", greys, probability, disagreement, 64), 2)
    assert best.candidate.place.column == 64 and best.score == pytest.approx(0.02, abs=1e-7)
    assert best.candidate.entropy < other.candidate.entropy and other.score == 0


def test_what_the_chosen_explain_counts_less() -> None:
    """Equal looks: of one micrograph all is explained, of another a half squared; then what is left."""
    same, elsewhere = candidate(0.9, [0, 0], row=20), candidate(0.5, [0, 0], "b")
    pool = [candidate(1.0, [0, 0]), same, elsewhere, candidate(0.0, [5, 5], "c")]
    first, second, *_ = choose(pool, 4)
    assert first.candidate is pool[0] and first.score == 1
    assert second.candidate is elsewhere and second.score == pytest.approx(0.5 * 0.75)


def test_unlike_fields_of_one_frame_share_only_the_frame() -> None:
    """Distance 0 and 1 to the only other look: the width is 1, its Gaussian exp(-d^2 / 2)."""
    pool = [candidate(1.0, [0]), candidate(0.8, [1], row=20)]
    second = choose(pool, 2)[1]
    similarity = (math.exp(-0.5) + 1) / 2
    assert second.score == pytest.approx(0.8 * (1 - similarity**2))


def test_greedy_choice_has_the_largest_determinant_at_every_step() -> None:
    random = np.random.default_rng(0)
    pool = [
        candidate(float(random.uniform(0.1, 1)), random.normal(size=3), "abcd"[i % 4], 20 * i)
        for i in range(24)
    ]
    look = np.array([one.look for one in pool])
    distances = squareform(pdist((look - look.mean(0)) / look.std(0)))
    width = np.median(distances[np.triu_indices(24, 1)])
    names = np.array([one.place.micrograph for one in pool])
    similarity = (np.exp(-(distances**2) / (2 * width**2)) + (names[:, None] == names)) / 2
    quality = np.array([one.information for one in pool])
    kernel = similarity * np.sqrt(np.outer(quality, quality))
    chosen: list[int] = []
    for choice in choose(pool, 8):
        gains = {
            i: np.linalg.det(kernel[np.ix_([*chosen, i], [*chosen, i])]) for i in set(range(24)) - set(chosen)
        }
        before = np.linalg.det(kernel[np.ix_(chosen, chosen)]) if chosen else 1.0
        best = max(gains, key=lambda i: gains[i])
        assert choice.candidate is pool[best]
        assert choice.score == pytest.approx(gains[best] / before)
        chosen.append(best)


def test_no_two_fields_share_a_pixel_and_known_ones_are_left_out() -> None:
    pool = [candidate(1 - 0.1 * i, [i, i * i], "a", 5 * i) for i in range(6)]  # of 10 rows each
    found = [one.candidate.place for one in choose(pool, 6)]
    assert len(found) == 3 and found[0].row == 0
    assert not any(a.overlaps(b) for a, b in itertools.combinations(found, 2))
    known = [Place("a", 3, 0, 4, 4), Place("b", 10, 0, 10, 10)]
    further = choose(pool, 6, known)
    assert len(further) == 2 and min(one.candidate.place.row for one in further) >= 10
    assert further[0].score < further[0].candidate.information, "what is known explains some of it"
    assert choose([], 3) == []


def test_fields_that_prepare_would_cut_or_refuse_are_no_candidates() -> None:
    greys = np.stack([noise(256, 512, seed) for seed in (0, 1)])
    probability = np.full((256, 512), 0.3, np.float32)
    assert len(candidates("a", greys, probability, None, 256)) == 2
    greys[:, 226:, :256] = info_bar(30, 256)
    greys[1, :, 256:460] = 255
    assert candidates("a", greys, probability, None, 256) == []


def test_a_packed_mask_comes_back() -> None:
    mask = np.random.default_rng(0).random((37, 53)) > 0.8
    assert np.array_equal(PackedMask.of(mask).unpacked(), mask)


def frames(folder: Path, dtype: type = np.uint8, detectors: int = 2, count: int = 3) -> Path:
    """Raw frames with an info bar, Zeiss metadata and a pixel size."""
    for index in range(count):
        for number in range(detectors):
            image = noise(*SIZE, seed=2 * index + number, dtype=dtype)
            bar = (info_bar(12, SIZE[1]).astype(np.uint16) * (np.iinfo(dtype).max // 255)).astype(dtype)
            path = folder / f"s_{2 * index + number + 1:03d}.tif"
            write(path, np.vstack([image, bar]), zeiss(f"{1000 * PIXEL_UM} nm"))
    return folder


def probabilities(names: Iterable[str]) -> dict[str, np.ndarray]:
    """Particles that differ from frame to frame, unsure at their edges."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return {
        name: (1 / (1 + np.exp(np.hypot(rows - 20 - 9 * i, columns - 90 + 20 * i) - 12 - i))).astype(
            np.float32
        )
        for i, name in enumerate(names)
    }


def suggest(
    source: Path,
    dest: Path,
    found: Mapping[str, np.ndarray] | None = None,
    detectors: int = 2,
    **options: Any,
) -> tuple[Suggestions, dict[str, np.ndarray]]:
    """Run the handler over the frames of a folder with given probabilities."""
    items = scan(source, detectors).items
    found = probabilities(item["name"] for item in items) if found is None else dict(found)

    def step(engine: Engine, item: Mapping[str, Any]) -> list[dict[str, Any]]:
        engine.state.batch = [{"name": item["name"], "raw": read_micrograph(item["image"]).pixels}]
        return [{"probability": found[item["name"]][None]}]

    engine, handler = Engine(step), Suggestions(dest, items, **options)
    handler.attach(engine)
    engine.run(items)
    return handler, found


def table(folder: Path, name: str = "suggestions.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("dtype", "detectors", "field"), [(np.uint8, 2, 48), (np.uint16, 2, 0), (np.uint8, 1, 48)]
)
def test_prepare_takes_the_fields_back(
    tmp_path: Path, dtype: type, detectors: int, field: int | None
) -> None:
    """Greys, labels and pixel size of a field are those of the frame, also after a correction by hand."""
    source, dest, data = frames(tmp_path / "raw", dtype, detectors), tmp_path / "next", tmp_path / "data"
    handler, found = suggest(source, dest, detectors=detectors, n=3, field=field)
    assert handler.failures == []
    rows, places = table(dest), read_places(str(dest))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    corrected = dest / f"{rows[0]['name']}_label.png"
    label = np.array(Image.open(corrected))
    assert set(np.unique(label)) <= {0, 255}
    label[:5, :7] ^= 255
    Image.fromarray(label).save(corrected)

    assert prepare(dest, data, split="1,1,1", detectors=detectors) == []
    listed = json.loads((data / "datalist.json").read_text())
    assert set(listed["micrographs"]) == {row["name"] for row in rows}
    for row, place in zip(rows, places, strict=True):
        facts = listed["micrographs"][row["name"]]
        assert facts["info_bar_rows"] == 0 and facts["pixel_size_um"] == pytest.approx(PIXEL_UM, rel=1e-6)
        assert float(row["entropy_nats"]) == pytest.approx(
            entropy(place.cut(found[place.micrograph])).mean(), rel=1e-4
        )
        image, mask = (
            np.asarray(nibabel.load(data / kind / f"{row['name']}.nii.gz").dataobj)
            for kind in ("images", "labels")
        )
        number = int(place.micrograph[2:])
        files = [source / f"s_{number + i % detectors:03d}.tif" for i in range(2)]
        raw = np.stack([tifffile.imread(file)[: SIZE[0]] for file in files])
        assert image.dtype == dtype
        np.testing.assert_array_equal(image[:, :, 0, 0], np.moveaxis(place.cut(raw), 0, -1))
        expected = place.cut(found[place.micrograph]) > 0.5
        if row is rows[0]:
            expected = label > 0
        np.testing.assert_array_equal(mask[..., 0], expected)


def test_folds_keep_the_fields_of_a_frame_together(tmp_path: Path) -> None:
    source, dest = frames(tmp_path / "raw"), tmp_path / "next"
    suggest(source, dest, n=6, field=48)
    fold = {row["name"]: row["fold"] for row in table(dest, "folds.csv")}
    together = {(row["micrograph"], fold[row["name"]]) for row in table(dest)}
    assert len(fold) == 6 and len(together) == len({name for name, _ in together}) == 3
    assert prepare(dest, tmp_path / "data", folds=str(dest / "folds.csv")) == []


def test_a_second_round_suggests_others(tmp_path: Path) -> None:
    source = frames(tmp_path / "raw")
    first, second = tmp_path / "first", tmp_path / "second"
    suggest(source, first, n=3, field=48)
    suggest(source, second, n=50, field=48, known=str(first))
    old, new = read_places(str(first)), read_places(str(second))
    assert len(old) == 3 and new and not any(a.overlaps(b) for a in old for b in new)
    assert read_places(f"{first}, {second}") == old + new


def test_a_frame_that_vanished_fails_and_the_others_are_written(tmp_path: Path) -> None:
    source, dest = frames(tmp_path / "raw"), tmp_path / "next"
    items = scan(source).items
    found = probabilities(item["name"] for item in items)
    handler = Suggestions(dest, items, n=30, field=48)

    def step(engine: Engine, item: Mapping[str, Any]) -> list[dict[str, Any]]:
        engine.state.batch = [{"name": item["name"], "raw": read_micrograph(item["image"]).pixels}]
        (source / "s_002.tif").unlink(missing_ok=True)
        return [{"probability": found[item["name"]][None]}]

    engine = Engine(step)
    handler.attach(engine)
    engine.run(items)
    assert [one.name for one in handler.failures] == ["s_001"]
    assert "s_002.tif: no such file" in handler.failures[0].reason
    assert {row["micrograph"] for row in table(dest)} == {"s_003", "s_005"}
    assert [row["rank"] for row in table(dest)] == [str(1 + i) for i in range(len(table(dest)))]


def test_mistakes_are_told_in_a_line(tmp_path: Path) -> None:
    items = [{"name": "a", "image": ["a_001.tif", "a_002.tif"]}]
    for options, told in {
        (("field", 8),): "--field 8: is no whole number from 32",
        (("n", 0),): "-n 0: suggests nothing",
        (("known", str(tmp_path)),): r"suggestions\.csv: is no table of suggestions",
    }.items():
        with pytest.raises(InputError, match=told):
            Suggestions(tmp_path / "new", items, **dict(options))
    for name in ("suggestions.csv", "x_001_label.png", "x_001.tif"):
        folder = tmp_path / f"with_{name}"
        folder.mkdir()
        (folder / name).touch()
        with pytest.raises(InputError, match="perhaps corrected ones; choose another folder"):
            Suggestions(folder, items)
    (tmp_path / "suggestions.csv").write_text("micrograph,row_px\na,1\n")
    with pytest.raises(InputError, match="KeyError"):
        read_places(str(tmp_path))


def test_labelled_micrographs_are_left_out(tmp_path: Path) -> None:
    source = frames(tmp_path / "raw")
    items = scan(source).items
    assert unlabelled(items, source) == items
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(source / "s_003_label.png")
    assert [one["name"] for one in unlabelled(items, source)] == ["s_001", "s_005"]
    for name in ("s_001", "s_005"):
        shutil.copy(source / "s_003_label.png", source / f"{name}_label.png")
    with pytest.raises(InputError, match="each of its 3 micrographs has a label already"):
        unlabelled(items, source)


def run(source: Path, dest: Path, *overlays: str, **overrides: Any) -> None:
    """The configs with the weights that the bundle carries."""
    names = ["inference", "sem", "segment", "suggest", *overlays]
    settings = {
        "dataset_dir": str(source),
        "output_dir": str(dest),
        "window_size": [96, 128],
        "engine": "torch",
    }
    bundles.run(bundles.packaged_bundle(), names, settings | overrides, training=False)


def test_the_configs_suggest_and_go_on_when_a_frame_is_damaged(raw: Path, tmp_path: Path) -> None:
    source, dest = tmp_path / "raw", tmp_path / "next"
    shutil.copytree(raw, source, ignore=shutil.ignore_patterns("*_label.png", "jfl_00[7-9]*", "jfl_010*"))
    damaged = source / "jfl_003.tif"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    with pytest.raises(SystemExit) as stop:
        run(source, dest, n=4, **{"suggestions#field": 64})
    assert stop.value.code == 3
    assert [row["name"] for row in table(dest, "failures.csv")] == ["jfl_003"]
    rows = table(dest)
    assert len(rows) == 4 and "jfl_003" not in {row["micrograph"] for row in rows}
    assert all(0 < float(row["score_nats"]) <= float(row["entropy_nats"]) + 1e-9 for row in rows)
    assert {row["mutual_information_nats"] for row in rows} == {""}
    with Image.open(dest / "figures" / "suggestions.png") as picture:
        assert picture.width > 4 * 400
    assert {path.name for path in dest.iterdir() if path.suffix not in (".tif", ".png")} == {
        *("failures.csv", "figures", "suggestions.csv"),
        *(["folds.csv"] if len({row["micrograph"] for row in rows}) > 2 else []),
    }
    assert prepare(dest, tmp_path / "data", split="2,1,1") == []


def test_symmetries_rank_by_their_disagreement(raw: Path, tmp_path: Path) -> None:
    source = tmp_path / "raw"
    source.mkdir()
    for name in ("jfl_001.tif", "jfl_002.tif"):
        shutil.copy(raw / name, source)
    run(source, tmp_path / "next", "tta", n=2, **{"suggestions#field": 0})
    (row,) = table(tmp_path / "next")
    shared = float(row["mutual_information_nats"])
    assert 0 < shared < float(row["entropy_nats"]) and float(row["score_nats"]) == pytest.approx(shared)
    assert (row["row_px"], row["height_px"], row["width_px"]) == ("0", "160", "208")


def test_the_configs_tell_mistakes(raw: Path, tmp_path: Path) -> None:
    for overrides, told in (
        ({}, "has a label already"),
        ({"n": 0}, "--n 0: should be a whole number from 1"),
    ):
        with pytest.raises(Exception) as error:  # MONAI wraps it
            run(raw, tmp_path / "next", **overrides)
        assert told in str(user_mistake(error.value))
    assert not (tmp_path / "next").exists()
