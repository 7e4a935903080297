"""The command line as a user meets it: one line for a mistake, the exit status, nothing half done."""

from __future__ import annotations

import csv
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from monai.networks.nets import BasicUNet
from PIL import Image
from scipy import ndimage

from carde_monai import __main__ as command_line

Cli = Callable[..., tuple[int, list[str]]]
# a training of one iteration; later options of the same name win
ONCE_SETTINGS = {"max_epochs": 1, "epoch_length": 1, "batch_size": 2, "crops_per_micrograph": 2}
ONCE_SETTINGS |= {"roi_size": "64,64", "tracking_uri": None}
ONCE = [str(word) for key, value in ONCE_SETTINGS.items() for word in (f"--{key}", value)]


class Evil:
    """Would make a file when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, raw: Path, dataset: Path, trained: Path) -> Path:
    """A working folder with good things (raw, data, bundle) and bad ones."""
    folder = tmp_path_factory.mktemp("world")
    for name, target in (("raw", raw), ("data", dataset)):
        (folder / name).symlink_to(target)
    shutil.copytree(trained, folder / "bundle", ignore=shutil.ignore_patterns("last*", "eval"))
    (folder / "empty").mkdir()
    (folder / "file").write_text("no micrograph")
    model = (trained / "models" / "model.pt").read_bytes()
    (folder / "cut.pt").write_bytes(model[: len(model) // 2])
    torch.save({"model": Evil()}, folder / "evil.pt")
    (folder / "evil.pickle").write_bytes(pickle.dumps(Evil()))
    other = BasicUNet(2, 2, 1, features=(8, 8, 8, 8, 8, 8), norm="batch")
    torch.save(other.state_dict(), folder / "other.pt")
    for name in ("without_validation", "damaged"):
        shutil.copytree(dataset, folder / name)
    listed = json.loads((dataset / "datalist.json").read_text())
    listed["test"] += listed.pop("validation")
    (folder / "without_validation" / "datalist.json").write_text(json.dumps(listed))
    image = folder / "damaged" / "images" / "jfl_003.nii.gz"
    image.write_bytes(image.read_bytes()[:2000])
    return folder


@pytest.fixture
def cli(world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Call ``carde-monai`` in that folder; returns exit status and lines on stderr but progress bars."""

    def call(*words: object) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["carde-monai", *map(str, words)])
        capfd.readouterr()
        status: Any = 0
        try:
            command_line.main()
        except SystemExit as end:
            status = end.code
        # what a terminal shows in the end of each line, without bars and movements of the cursor
        lines = [line.rpartition("\r")[2] for line in capfd.readouterr().err.split("\n")]
        lines = [line.replace("\x1b[A", "").strip() for line in lines]
        return status, [line for line in lines if line and "%|" not in line]

    monkeypatch.chdir(world)
    return call


@pytest.mark.parametrize(
    ("words", "told"),
    [
        # how the program is called
        ("foo", "foo: is no verb; choose from demo, synthesize, prepare"),
        ("segmnt raw out", "segmnt: is no verb; did you mean segment?"),
        ("prepare", "prepare: SOURCE is missing; carde-monai prepare --help"),
        ("prepare raw", "prepare: DEST is missing"),
        ("train --max_epochs 1", "train: DATASET is missing"),
        ("synthesize out --sead 1", "--sead: is no option of synthesize; did you mean --seed?"),
        ("synthesize out --sead=1", "--sead: is no option of synthesize; did you mean --seed?"),
        ("synthesize out 1 64,64 jfl 0 more", "more: is one argument too many for synthesize"),
        ("prepare raw out --labels", "--labels: stands without its value"),
        ("train data --bundle", "--bundle: stands without its value"),
        ("segment raw out --weights", "--weights: stands without its value"),
        # synthesize
        ("synthesize out --size 10", "--size 10: not two whole numbers; give rows,columns"),
        ("synthesize out --size 10,10", "--size 10,10: too small"),
        ("synthesize out --steel foo", "--steel foo: unknown steel; choose one of jfl, anp"),
        ("synthesize out --micrographs abc", "--micrographs abc: not a positive whole number"),
        ("synthesize out --seed abc", "--seed abc: not a whole number"),
        ("synthesize file", "file: is a file"),
        ("synthesize file/sub", "file/sub: Not a directory; check the path"),
        # prepare
        ("prepare nowhere out", "nowhere: no such folder; give the folder"),
        ("prepare empty out", "empty: holds no TIFF files"),
        ("prepare file out", "file: is no folder"),
        ("prepare data out", "data: is a prepared data set already"),
        ("prepare raw file", "file: is a file; choose another folder"),
        ("prepare raw raw", "raw: is the source itself"),
        ("prepare raw out --labels nowhere", "nowhere: no such folder; give --labels"),
        ("prepare raw out --pixel_size abc", "--pixel_size: abc is neither a number nor a file; give"),
        ("prepare raw out --split nonsense", "--split: 'nonsense' is not three numbers"),
        ("prepare raw out --split 1,2", "--split: '1,2' is not three numbers"),
        ("prepare raw out --folds 1", "--folds: 1 is too few"),
        ("prepare raw out --folds 99", "--folds: 99 folds for 5 labelled micrographs"),
        ("prepare raw out --folds nowhere.csv", "nowhere.csv: no table of folds"),
        ("prepare raw out --seed abc", "--seed abc: not a whole number"),
        ("prepare raw out --detectors 3", "--detectors: 3 is not possible"),
        ("prepare raw out --label_value abc", "--label_value: 'abc' is no list of whole numbers"),
        ("prepare raw out --label_color 1,2", "--label_color: '1,2' is no colour"),
        # train
        ("train nowhere --bundle new", "nowhere: no such folder; make a data set with"),
        ("train raw --bundle new", "raw: holds no datalist.json; make a data set with"),
        ("train without_validation --bundle new", "no validation micrographs; prepare again"),
        ("train data --bundle raw", "raw: is not a bundle"),
        ("train data --bundle file", "file: is not a bundle"),
        ("train data --bundle new --learning_rat 1", "--learning_rat: is no setting"),
        ("train data --bundle new --max_epochs abc", "--max_epochs abc: should be a whole number from 1"),
        ("train data --bundle new --roi_size 100", "--roi_size 100: should be 2 sizes in pixels"),
        ("train data --bundle new --fold 0", "has no folds; leave out --fold"),
        ("train data --bundle bundle --output_dir file", "file: cannot be a folder"),
        ("train data --bundle bundle --tracking_uri abc", "abc: MLflow cannot keep runs there"),
        ("train data --bundle bundle --device cpu", "--device cpu: cannot be used (AttributeError"),
        ("train data --bundle bundle --roi_size 4,4", "--roi_size [4, 4]"),
        ("train damaged --bundle bundle", "jfl_003.nii.gz: is damaged"),
        # calibrate and evaluate
        ("calibrate data --bundle nowhere", "nowhere: there is no such bundle; --bundle must name"),
        ("calibrate without_validation --bundle bundle", "no validation micrographs"),
        ("evaluate data --bundle nowhere", "nowhere: there is no such bundle"),
        ("evaluate data --bundle bundle --weights other.pt", "other.pt: holds weights of another network"),
        ("evaluate data --bundle bundle --sections foo", "no section named 'foo'; choose from training"),
        # segment
        ("segment nowhere out --bundle bundle", "nowhere: no such folder"),
        ("segment empty out --bundle bundle", "empty: holds no TIFF files"),
        ("segment file out --bundle bundle", "file: is a file; give the folder that holds it"),
        ("segment raw file --bundle bundle", "file: cannot be a folder, "),
        ("segment raw out --bundle nowhere", "nowhere: there is no such bundle"),
        ("segment raw out --bundle raw", "raw/configs/inference.json: there is no such file; --bundle must"),
        ("segment raw out --bundle bundle --weights no.pt", "no.pt: there are no such weights; train first"),
        ("segment raw out --bundle bundle --weights cut.pt", "cut.pt: holds no weights, or is cut off"),
        ("segment raw out --bundle bundle --weights evil.pt", "evil.pt: holds program code"),
        ("segment raw out --bundle bundle --weights evil.pickle", "evil.pickle: holds no weights"),
        ("segment raw out --bundle bundle --weights other.pt", "other.pt: holds weights of another network"),
        ("segment raw out --bundle bundle --pixel_size abc", "--pixel_size: abc is no pixel size"),
        ("segment raw out --bundle bundle --detectors 3", "--detectors: 3 is not possible"),
        ("segment raw out --bundle bundle --wights x", "--wights: is no setting of this bundle"),
        ("segment raw out --bundle bundle --window#overlap 7", "--window#overlap 7: cannot be used"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(words: str, told: str, cli: Cli, world) -> None:
    before = sorted(world.rglob("*"))
    verb, *rest = words.split()
    status, lines = cli(verb, *(ONCE if words.startswith("train data --bundle b") else []), *rest)
    assert status == 2
    assert len(lines) == 1 and lines[0].startswith("carde-monai: ") and told in lines[0]
    assert sorted(world.rglob("*")) == before


def test_a_prepared_image_that_is_damaged_is_named(cli: Cli, world: Path) -> None:
    status, lines = cli("segment", "damaged", "from_damaged", "--bundle", "bundle")
    assert status == 3 and len(lines) == 2 and lines[0].startswith("failed: jfl_003: ")
    assert "is damaged" in lines[0] and lines[1].startswith("1 failed")


def test_weights_that_are_missing_in_the_package(cli: Cli, tmp_path, trained, monkeypatch) -> None:
    bundle = tmp_path / "packaged"
    shutil.copytree(trained, bundle, ignore=shutil.ignore_patterns("*.pt", "eval"))
    monkeypatch.setattr("carde_monai.bundles.packaged_bundle", lambda: bundle)
    status, lines = cli("segment", "raw", tmp_path / "out")
    assert status == 2 and len(lines) == 1
    assert "model.pt: there are no such weights; train first" in lines[0] and "--bundle" in lines[0]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> Path:
    """A folder with two good pairs and one of every fault."""
    folder = tmp_path_factory.mktemp("mixed")

    def pair(name: str, *numbers: int) -> list[Path]:
        return [
            Path(shutil.copy(raw / f"jfl_{2 - n % 2:03}.tif", folder / f"{name}_{n:03}.tif")) for n in numbers
        ]

    pair("good", 1, 2)
    shutil.copy(raw / "jfl_001_label.png", folder / "good_001_label.png")
    pair("alone", 3)
    pair("sizes", 5)
    tifffile.imwrite(folder / "sizes_006.tif", np.zeros((50, 60), np.uint8), photometric="minisblack")
    truncated = pair("truncated", 7, 8)[0]
    truncated.write_bytes(truncated.read_bytes()[:9000])
    pair("text", 9, 10)[0].write_text("hello")
    colours = np.random.default_rng(0).integers(0, 255, (160, 208, 3), np.uint8)
    tifffile.imwrite(pair("colour", 11, 12)[0], colours, photometric="rgb")
    pair("label", 13, 14)
    Image.new("L", (30, 20)).save(folder / "label_013_label.png")
    return folder


FAULTS = {
    "alone_003": "partner alone_004.tif is missing; add it",
    "colour_011": "is a colour image; give",
    "sizes_005": "differ in size",
    "text_009": "cannot be read",
    "truncated_007": "is truncated; copy it",
}


def failures(folder: Path) -> dict[str, str]:
    with (folder / "failures.csv").open(newline="") as file:
        return {row["name"]: row["reason"] for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("verb", "faults", "done"),
    [
        ("segment", FAULTS, ["good_001_mask.png", "label_013_mask.png", "label_013_overlay.png"]),
        (
            "prepare",
            FAULTS | {"label_013": "label_013_label.png: 30 x 20 px but"},
            ["images/good_001.nii.gz", "labels/good_001.nii.gz", "datalist.json"],
        ),
    ],
)
def test_bad_files_are_listed_and_the_others_done(verb, faults, done, mixed, cli, tmp_path) -> None:
    status, lines = cli(verb, mixed, tmp_path / "out", *(["--bundle", "bundle"] if verb == "segment" else []))
    assert status == 3
    listed = failures(tmp_path / "out")
    assert listed.keys() == faults.keys()
    for name, reason in listed.items():
        assert faults[name] in reason and str(mixed / name) in reason
        assert sum(line.startswith(f"failed: {name}: ") for line in lines) == 1
    assert len(lines) == len(faults) + 1 and "failures.csv" in lines[-1]
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert written.issuperset(done)
    assert not any(fault in file for file in written for fault in faults)


def test_folders_with_names_like_numbers_and_lists(raw: Path, cli: Cli, world: Path) -> None:
    for name in ("2024", "a,b"):
        shutil.copytree(raw / "hold-out", world / name)
        status, lines = cli("segment", name, f"{name}5", "--bundle", "bundle")
        assert (status, lines) == (0, [])
        assert len(list((world / f"{name}5").glob("*_mask.png"))) == 2


def test_the_printed_command_gives_the_same_masks(raw, trained, tmp_path, monkeypatch, cli, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(raw / "hold-out", "my steel, 2")
    with caplog.at_level(logging.INFO, "carde_monai"):
        status, _ = cli("segment", "my steel, 2", "77", "--bundle", trained, "--window_size", "128,128")
    (command,) = (line for line in caplog.messages if line.startswith("python -m monai.bundle run"))
    ours = {path.name: path.read_bytes() for path in Path("77").glob("*_mask.png")}
    assert status == 0 and len(ours) == 2
    shutil.rmtree("77")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name: path.read_bytes() for path in Path("77").glob("*_mask.png")} == ours


def test_training_verbs_do_their_work(cli: Cli, world: Path) -> None:
    for words in ("train data --bundle mine", "calibrate data --bundle mine", "evaluate data --bundle mine"):
        status, _ = cli(*words.split(), *ONCE)
        assert status == 0
    assert (world / "mine" / "models" / "calibration.json").is_file()
    assert (world / "mine" / "eval" / "metrics.csv").is_file()
    # the training goes on from weights when it is told to, and its bundle stays
    status, _ = cli("train", "data", "--bundle", "mine", "--weights", "mine/models/model.pt", *ONCE)
    assert status == 0


def test_measure_and_compare(cli: Cli, tmp_path: Path) -> None:
    truth, grown = tmp_path / "truth", tmp_path / "grown"
    assert cli("measure", "raw", str(truth), "--images", "raw") == (0, [])
    table = (truth / "micrographs.csv").read_text()
    assert table.count("Zeiss") == 7, "the pixel size of the masks' micrographs"
    labels = sorted(truth.glob("*_labels.tif"))
    assert len(labels) == 7
    grown.mkdir()
    for path in labels:
        mask = ndimage.binary_dilation(tifffile.imread(path) > 0)
        Image.fromarray(mask.astype(np.uint8) * 255).save(
            grown / path.name.replace("_labels.tif", "_mask.png")
        )
    words = ["--images", "raw", "--split_touching", "--saltykov", "--group_by", "jfl|anp"]
    assert cli("measure", str(grown), str(tmp_path / "again"), *words) == (0, [])
    summary = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert {one["sample"] for one in summary["samples"]} == {"jfl", "anp"}
    assert all(one["saltykov"] for one in summary["samples"])
    assert cli("compare", str(truth), str(tmp_path / "again"), str(tmp_path / "both")) == (0, [])
    compared = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert compared["paired"] and compared["quantities"]["ecd_mean"]["difference"] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("measure empty out", "empty: holds no masks"),
        ("measure raw out --min_area 0", "--min_area: 0 is no area"),
        ("measure raw out --images empty", "empty: holds no TIFF files"),
        ("measure raw out --pixel_size -1", "--pixel_size: -1 is no pixel size"),
        ("measure raw out --group_by (", "--group_by: '(' is no regular expression"),
        ("compare empty raw", "empty: has no micrographs.csv"),
        ("compare raw raw --large -1", "--large: -1 is no size"),
        (
            "segment data out --bundle bundle --pixel_size 0.01",
            "--pixel_size: does not change the prepared data",
        ),
        ("compare none raw", "none: no such folder"),
    ],
)
def test_mistakes_in_measuring_are_one_line(words: str, told: str, cli: Cli, world: Path) -> None:
    status, lines = cli(*words.split())
    assert status == 2 and len(lines) == 1 and told in lines[0]
    assert not (world / "out").exists()


def test_debug_shows_the_traceback_and_the_line(cli: Cli) -> None:
    for words in (["--debug", "synthesize", "out", "--steel", "x"], ["train", "nowhere", "--debug"]):
        status, lines = cli(*words)
        assert status == 2
        assert lines[0].startswith("Traceback") and lines[-1].startswith("carde-monai: ")


def test_a_bug_keeps_its_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("carde_monai.synthetic.synthesize", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli("synthesize", "out")


def test_control_c_is_quiet(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("carde_monai.synthetic.synthesize", stopped)
    assert cli("synthesize", "out") == (130, [])


def test_help_is_instant_and_tells_every_option() -> None:
    program = """
import inspect, sys
from carde_monai.__main__ import VERBS, main
for words in ([], ["--help"], *([verb, "--help"] for verb in VERBS), ["segment", "raw", "-h"], ["--version"]):
    sys.argv = ["carde-monai", *words]
    print("==", *words)
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
heavy = {"torch", "monai", "numpy", "mlflow", "matplotlib", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
    sections = dict(part.split("\n", 1) for part in done.stdout.split("== ")[1:])
    for verb, function in command_line.VERBS.items():
        text = sections[f"{verb} --help"]
        assert verb in sections["--help"] and function.__doc__.split("\n")[0][:40] in text
        for name in set(function.__annotations__) - {"return", "overrides"}:
            assert name in text or name.upper() in text
        assert "FIRE_METADATA" not in text and "Type:" not in text
    assert "--debug" in sections["--help"] and "Exit status" in sections["--help"]
    assert sections["--version"].startswith("carde-monai 0.")
