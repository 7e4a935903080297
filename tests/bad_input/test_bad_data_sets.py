"""Prepared data sets with one fault each, and settings that fit nothing: train, evaluate, segment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawings import MASK, nifti
from faults import SHORT, Array, grey
from runs import listed
from world import bundle, cli, data

Listed = dict[str, Any]
Change = Callable[[Path, Listed, str], object]  # of a section
RANDOM = np.random.default_rng(2).integers(0, 256, 5000, np.uint8).tobytes()


def _image(path: Path, content: bytes | Callable[[bytes], bytes]) -> None:
    path.write_bytes(content(path.read_bytes()) if callable(content) else content)


def _first(content: bytes | Callable[[bytes], bytes], key: str = "image") -> Change:
    return lambda root, parts, section: _image(root / parts[section][0][key], content)


def _write(key: str, pixels: Array) -> Change:
    return lambda root, parts, section: nifti(pixels)(root / parts[section][0][key])


def _set(**values: Any) -> Change:
    return lambda root, parts, section: parts[section][0].update(values)


def _other_spelling(root: Path, parts: Listed, section: str) -> None:
    path = parts["validation"][0]["image"].replace("images/", "images/../images/")
    parts[section][0] |= {"image": path}


def _copy(root: Path, parts: Listed, section: str) -> None:
    shutil.copy(root / parts["validation"][0]["image"], root / parts[section][0]["image"])


def _outside(root: Path, parts: Listed, section: str) -> None:
    shutil.copy(root / parts[section][0]["image"], root.parent / "secret.nii.gz")
    parts[section][0]["image"] = "../secret.nii.gz"


def _gone(key: str) -> Change:
    return lambda root, parts, section: (root / parts[section][0][key]).unlink()


# fault, what is changed in the data set, what is said
FAULTS: list[tuple[str, Change, str]] = [
    ("missing image", _gone("image"), "but missing"),
    ("missing label", _gone("label"), "but missing"),
    ("absolute path", _set(image="/etc/passwd"), "lists the absolute path /etc/passwd"),
    ("drive", _set(label="C:\\x.nii.gz"), "lists the absolute path C:"),
    ("parent folder", _outside, "lists ../secret.nii.gz, which is outside the data set"),
    ("name of a path", _set(name="../a"), "cannot name files"),
    ("name twice", lambda root, parts, section: parts[section].append(parts["validation"][0]), "two places"),
    ("other spelling", _other_spelling, "stands in two places"),
    ("copy on both sides", _copy, "is a copy of"),
    ("no label", lambda root, parts, section: parts[section][0].pop("label"), "has no label"),
    ("name of a number", _set(name=1), "must be text"),
    ("path of a number", _set(label=7), "has no label"),
    ("no list", lambda root, parts, section: parts.update({section: None}), "not a data list of carde-monai"),
    ("empty image", _first(b""), "is damaged"),
    ("random image", _first(RANDOM), "is damaged"),
    ("cut image", _first(lambda data: data[: len(data) // 2]), "is damaged"),
    ("cut label", _first(lambda data: data[: len(data) // 2], "label"), "is damaged"),
    ("one channel", _write("image", grey()[..., None]), "has the shape"),
    ("label of other size", _write("label", MASK[:80, :, None]), "has the shape"),
]


def _broken(data: Path, folder: Path, change: Change, section: str = "") -> Path:
    root = folder / "set"
    shutil.copytree(data, root)
    content = json.loads((root / "datalist.json").read_text())
    change(root, content, section)
    (root / "datalist.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("verb", ["train", "evaluate"])
@pytest.mark.parametrize(("fault", "change", "told"), FAULTS, ids=[fault for fault, *_ in FAULTS])
def test_a_broken_data_set_is_one_line(fault, change, told, verb, data, bundle, cli, tmp_path) -> None:
    root = _broken(data, tmp_path, change, "training" if verb == "train" else "test")
    words = [verb, root, "--bundle", bundle, "--output_dir", tmp_path / "out", "--tracking_uri", None]
    status, lines = cli(*words, *([*SHORT, "--ckpt_dir", tmp_path] if verb == "train" else []))
    assert status == 2 and len(lines) == 1
    assert lines[0].startswith(f"carde-monai: {root}") and told in lines[0] and ";" in lines[0]


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"training": 3}', '{"training": [{}]}', "\x00\xff"])
def test_a_broken_list_is_one_line(text, data, bundle, cli, tmp_path) -> None:
    root = _broken(data, tmp_path, lambda *_: None)
    (root / "datalist.json").write_bytes(text.encode("latin-1"))
    for verb in ("train", "evaluate"):
        status, lines = cli(verb, root, "--bundle", bundle)
        assert status == 2 and len(lines) == 1 and f"{root}/datalist.json: " in lines[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "train {data} --learning_rat 1",
            "--learning_rat: is no setting of this bundle; did you mean --learn",
        ),
        ("train {data} --train#trainer#max_epoch 1", "is no setting of this bundle"),
        ("train {data} --learning_rate -1", "--learning_rate -1: should be a number above 0"),
        ("train {data} --learning_rate nan", "--learning_rate"),
        ("train {data} --overlay nothing", "nothing.json: there is no such file; choose from"),
        ("evaluate {data} --window_siz 64,64", "did you mean --window_size"),
        ("evaluate {data} --sections tset", "no section named 'tset'"),
        ("segment {data} {out} --wights x.pt", "did you mean --weights"),
        ("segment {data} {out} --window_size 0,0", "should be 2 sizes in pixels"),
        ("prepare {data} {out} --splt 1,1,1", "--splt: is no option of prepare; did you mean --split"),
        ("measure {data} {out} --min_area 0", "--min_area: 0 is no area"),
        ("measure {data} {out} --pixel_size -1", "--pixel_size: -1 is no pixel size"),
    ],
)
def test_a_setting_that_fits_nothing_is_one_line(words, told, data, bundle, cli, tmp_path) -> None:
    words = words.format(data=data, out=tmp_path / "out").split()
    if words[0] in ("train", "evaluate", "segment"):
        words += ["--bundle", bundle]
    status, lines = cli(*words)
    assert status == 2 and len(lines) == 1 and told in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_damaged_image_does_not_stop_the_others(data, bundle, cli, tmp_path) -> None:
    root = _broken(data, tmp_path, lambda *_: None)
    names = sorted(path.name[: -len(".nii.gz")] for path in (root / "images").iterdir())
    bad = {
        names[0]: (lambda packed: packed[: len(packed) // 2], "is damaged"),
        names[1]: (lambda packed: RANDOM, "is damaged"),
        names[2]: (lambda packed: packed[:400] + bytes(8) + packed[408:], "is damaged"),
    }
    for name, (change, _) in bad.items():
        _image(root / "images" / f"{name}.nii.gz", change)
    nifti(grey()[..., None])(root / "images" / f"{names[3]}.nii.gz")
    status, lines = cli("segment", root, tmp_path / "out", "--bundle", bundle)
    failures = listed(tmp_path / "out")
    assert status == 3 and sorted(failures) == names[:4]
    assert all(told in failures[name] for name, (_, told) in bad.items())
    assert "has the shape" in failures[names[3]]
    assert not any("Traceback" in line for line in lines)
    assert cli("segment", data, tmp_path / "alone", "--bundle", bundle) == (0, [])
    for file in (f"{names[4]}_mask.png", f"{names[4]}_probability.tif"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
