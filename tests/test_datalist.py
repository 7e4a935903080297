"""Splits are disjoint, complete and repeatable; a faulty data set is refused in one line."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carde_monai import datalist
from carde_monai.errors import InputError

NAMES = st.sets(st.text("abcdef0123456789_", min_size=1, max_size=6), max_size=40)
WEIGHTS = st.tuples(*[st.integers(0, 12)] * 3).filter(any)


def _dataset(root: Path, **sections: list[str]) -> Path:
    """A data set of empty files; a member "a:2" is micrograph a in fold 2."""
    content = {"name": "test"}
    for section, members in sections.items():
        content[section] = items = []
        for member in members:
            name, _, fold = member.partition(":")
            item = {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz", "name": name}
            if section == "unlabelled":
                del item["label"]
            items.append(item | ({"fold": int(fold)} if fold else {}))
            for key in {"image", "label"} & item.keys():
                (root / item[key]).parent.mkdir(parents=True, exist_ok=True)
                (root / item[key]).write_text(f"{key} of {name}")
    (root / "datalist.json").write_text(json.dumps(content))
    return root


def _names(items: list[dict[str, str]]) -> str:
    return "".join(item["name"] for item in items)


@given(NAMES, WEIGHTS, st.integers(0, 5), st.randoms(use_true_random=False))
def test_split_is_disjoint_complete_and_independent_of_order(
    names: set[str], weights: tuple[int, ...], seed: int, shuffler: random.Random
) -> None:
    parts = datalist.split(sorted(names), weights, seed)
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    mixed = sorted(names)
    shuffler.shuffle(mixed)
    assert datalist.split(mixed, weights, seed) == parts
    for section, weight in zip(datalist.SPLIT, weights, strict=True):
        if weight == 0:
            assert not parts[section]
        elif len(names) >= sum(other > 0 for other in weights):
            assert parts[section]


@given(st.lists(st.integers(1, 9), min_size=3, max_size=3), st.integers(0, 3))
def test_weights_that_add_up_are_exact_counts(weights: list[int], seed: int) -> None:
    parts = datalist.split([f"m{index}" for index in range(sum(weights))], weights, seed)
    assert [len(part) for part in parts.values()] == weights


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [
        (12, "10,1,1", [10, 1, 1]),
        (24, "10,1,1", [20, 2, 2]),
        (4, "10,1,1", [2, 1, 1]),
        (3, "10,1,1", [1, 1, 1]),
        (2, "10,1,1", [1, 1, 0]),
        (1, "10,1,1", [1, 0, 0]),
        (2, "1,1,10", [1, 1, 0]),
        (1, "1,1,10", [1, 0, 0]),
        (7, (8, 1, 1), [5, 1, 1]),
        (5, (0, 0, 1), [0, 0, 5]),
        (3, (0.7, 0.2, 0.1), [1, 1, 1]),
        (10, (0.7, 0.2, 0.1), [7, 2, 1]),
        (0, "10,1,1", [0, 0, 0]),
    ],
)
def test_largest_remainder_by_hand(total: int, weights: object, expected: list[int]) -> None:
    parts = datalist.split([f"m{index:02}" for index in range(total)], weights)
    assert [len(part) for part in parts.values()] == expected


def test_seed_changes_the_split() -> None:
    names = [f"m{index:02}" for index in range(20)]
    assert datalist.split(names, "10,5,5", 0) != datalist.split(names, "10,5,5", 1)


@pytest.mark.parametrize(
    "weights", ["10,1", "a,b,c", "10,-1,1", "0,0,0", 10, (1, 1, float("inf")), "nan,1,1"]
)
def test_bad_weights_name_the_option(weights: object) -> None:
    with pytest.raises(InputError, match=r"^--split: .*write --split 10,1,1$"):
        datalist.split(["a"], weights)


@given(NAMES.filter(lambda names: len(names) >= 3), st.data())
def test_folds_are_complete_even_and_independent_of_order(names: set[str], data: st.DataObject) -> None:
    k = data.draw(st.integers(3, len(names)))
    folds = datalist.assign_folds(sorted(names), k, seed=1)
    assert folds.keys() == names
    sizes = [list(folds.values()).count(fold) for fold in range(k)]
    assert max(sizes) - min(sizes) <= 1
    assert folds == datalist.assign_folds(sorted(names, reverse=True), k, seed=1)


@pytest.mark.parametrize("k", [0, 2, 5])
def test_impossible_folds(k: int) -> None:
    with pytest.raises(InputError, match=r"^--folds"):
        datalist.assign_folds("abcd", k)


def test_sections_have_absolute_paths_and_the_keys_of_a_batch(tmp_path: Path) -> None:
    _dataset(tmp_path, training=["a", "b"], test=["c"], unlabelled=["u"])
    (tmp_path / "a").touch()  # MONAI would take the name for this file's path
    assert datalist.load(tmp_path, "training")[0] == {
        "image": str(tmp_path / "images/a.nii.gz"),
        "label": str(tmp_path / "labels/a.nii.gz"),
        "name": "a",
        "section": "training",
    }
    assert datalist.load(tmp_path, "unlabelled")[0].keys() == {"image", "name", "section"}
    scored = datalist.load(tmp_path, ["test", "holdout"])
    assert [(item["name"], item["section"]) for item in scored] == [("c", "test")]
    assert datalist.counts(tmp_path) == {
        "training": 2,
        "validation": 0,
        "test": 1,
        "holdout": 0,
        "unlabelled": 1,
    }


def test_the_fold_before_the_test_fold_is_for_validation(tmp_path: Path) -> None:
    # Fold 3 is missing, as in the published six folds of which five are here.
    _dataset(tmp_path, training=["a:0", "b:1", "c:2", "d:4", "e:5", "f:5"], holdout=["h"])
    for fold, training, validation, test in [
        (5, "abc", "d", "ef"),
        (0, "bcd", "ef", "a"),
        (4, "abef", "c", "d"),
    ]:
        assert _names(datalist.load(tmp_path, "training", fold)) == training
        assert _names(datalist.load(tmp_path, "validation", fold)) == validation
        assert _names(datalist.load(tmp_path, "test", fold)) == test
        assert _names(datalist.load(tmp_path, ["test", "holdout"], fold)) == test + "h"
    assert _names(datalist.load(tmp_path, "holdout")) == "h"
    assert datalist.counts(tmp_path, 5)["training"] == 3
    with pytest.raises(InputError, match="has folds 0, 1, 2, 4, 5; choose the test fold"):
        datalist.load(tmp_path, "training")
    with pytest.raises(InputError, match="no fold 3; choose from folds 0, 1, 2, 4, 5"):
        datalist.load(tmp_path, "training", 3)


def test_two_folds_do_not_cross_validate(tmp_path: Path) -> None:
    _dataset(tmp_path, training=["a:0", "b:1"])
    with pytest.raises(InputError, match="--folds 3"):
        datalist.load(tmp_path, "training", 0)


def test_what_is_missing_is_said_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder; .*carde-monai prepare"):
        datalist.load(tmp_path / "nowhere", "training")
    with pytest.raises(InputError, match=r"holds no datalist.json; .*carde-monai prepare"):
        datalist.load(tmp_path, "training")
    _dataset(tmp_path, training=["a"])
    with pytest.raises(InputError, match="no validation micrographs; prepare again with --split 10,1,1"):
        datalist.load(tmp_path, "validation")
    with pytest.raises(InputError, match="no test or holdout micrographs"):
        datalist.load(tmp_path, ["test", "holdout"])
    with pytest.raises(InputError, match="no section named 'train'"):
        datalist.load(tmp_path, "train")
    with pytest.raises(InputError, match="has no folds; leave out --fold"):
        datalist.load(tmp_path, "training", 0)
    (tmp_path / "labels/a.nii.gz").unlink()
    with pytest.raises(InputError, match=r"a.nii.gz: listed in the data set but missing"):
        datalist.load(tmp_path, "training")
    with pytest.raises(InputError, match=r"labels/a.nii.gz: unreadable"):
        datalist.digest(tmp_path)


@pytest.mark.parametrize(
    "sections",
    [
        {"training": ["a"], "test": ["a"]},
        {"training": ["a:0", "a:1", "b:2"]},
        {"training": ["b"], "unlabelled": ["b"]},
    ],
)
def test_a_micrograph_on_both_sides_is_refused(tmp_path: Path, sections: dict[str, list[str]]) -> None:
    _dataset(tmp_path, **sections)
    with pytest.raises(InputError, match="stands in two places"):
        datalist.load(tmp_path, "training", 0 if ":" in sections["training"][0] else None)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"training": ["a.nii.gz"]}', '{"training": [{"image": "a"}]}', '{"training": 3}', "\x00"],
)
def test_a_foreign_datalist_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "datalist.json").write_text(text)
    with pytest.raises(InputError, match="not a data list of carde"):
        datalist.load(tmp_path, "training")


def test_a_training_micrograph_needs_its_label(tmp_path: Path) -> None:
    item = {"image": "a.nii.gz", "name": "a"}
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [item]}))
    with pytest.raises(InputError, match="training micrograph a has no label"):
        datalist.load(tmp_path, "training")


def test_digest_sees_contents_and_split_but_not_the_place(tmp_path: Path) -> None:
    first = _dataset(tmp_path / "first", training=["a", "b"], test=["c"])
    digest = datalist.digest(first)
    assert len(digest) == 16
    assert datalist.digest(shutil.copytree(first, tmp_path / "copy")) == digest
    assert datalist.digest(_dataset(tmp_path / "other", training=["a"], test=["b", "c"])) != digest
    (first / "labels/c.nii.gz").write_text("corrected by hand")
    assert datalist.digest(first) != digest


def test_fold_table_matches_whole_names_and_ends(tmp_path: Path) -> None:
    names = ["uhcs0007", "uhcs0477", "uhcs1477", "WD_7"]
    table = tmp_path / "folds.csv"
    table.write_text("\ufeffname;fold\n0007;2\nuhcs0477;1\n1477;0\n9999;4\n", encoding="utf-8")
    assert datalist.read_folds(table, names) == {"uhcs0007": 2, "uhcs0477": 1, "uhcs1477": 0}
    table.write_text("name,fold\n7,3\n")
    assert datalist.read_folds(table, names) == {"WD_7": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,fold\n_1,0\n", "'_1' is ambiguous"),
        ("name,fold\na_1,0\na_1,1\n", "'a_1' is ambiguous"),
        ("micrograph,fold\na_1,0\n", "no table of folds"),
        ("name,fold\na_1,first\n", "no table of folds"),
        ("name,fold\na_1\n", "no table of folds"),
    ],
)
def test_bad_fold_tables(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "folds.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=message):
        datalist.read_folds(table, ["a_1", "b_1"])
    with pytest.raises(InputError, match="no table of folds"):
        datalist.read_folds(tmp_path / "none.csv", ["a_1"])
