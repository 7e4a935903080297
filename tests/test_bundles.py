"""Commands that mean the same in a shell, overrides that fit, and bundles that are there."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import fire
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from carde_monai import bundles, demo
from carde_monai.bundle_checks import check_overrides, check_places
from carde_monai.errors import InputError

TRAIN = bundles.config_files(bundles.packaged_bundle(), ["train"])
# what a shell word can hold; backslashes would make Python warn of unknown escapes
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\\"))
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS


def parsed_by_fire(words: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    fire.Fire(lambda **kwargs: found.update(kwargs), words)
    return found


@given(st.dictionaries(st.sampled_from(["output_dir", "weights", "a#b"]), LEAVES | st.lists(LEAVES)))
@example({"output_dir": "2024", "weights": "my results, new/it's.pt", "a#b": "-x"})
@example({"output_dir": 'a "quoted" $HOME `name`!', "weights": "$@ckpt_dir + '/model.pt'"})
def test_the_printed_command_means_the_same_to_monai(overrides: dict[str, Any]) -> None:
    words = shlex.split(bundles.command(["train.json"], overrides))
    assert words[:4] == ["python", "-m", "monai.bundle", "run"]
    assert parsed_by_fire(words[4:]) == {"config_file": "train.json", **overrides}


def test_several_configs_are_a_list_in_the_command() -> None:
    command = bundles.command(["a.json", "b.json"], {})
    assert command == """python -m monai.bundle run --config_file "['a.json', 'b.json']\""""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_epochs", 5),
        ("max_epochs", "$3 + 2"),
        ("max_epochs", "@seed"),
        ("learning_rate", 1),
        ("seed", 0),
        ("lr_patience", 0),
        ("roi_size", (64, 64)),
        ("fold", 2),
        ("weights", "old.pt"),
        ("weights", None),
        ("tracking_uri", None),
        ("quiet", True),
        ("amp", False),
        ("experiment_name", "demo"),
        ("device", "$torch.device('cpu')"),
        ("network_def#features", [8, 8, 8, 8, 8, 8]),
        ("window#overlap", 0),
        ("window::overlap", 0.5),
        ("lr_scheduler#patience", 0),
        ("optimizer", {"_target_": "torch.optim.SGD"}),
    ],
)
def test_overrides_that_fit(key: str, value: Any) -> None:
    check_overrides(TRAIN, {key: value})


def test_the_settings_of_the_demo_fit() -> None:
    check_overrides(TRAIN, demo.TRAINING)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("learning_rat", 1, "is no setting of this bundle; did you mean --learning_rate?"),
        ("train#trainer#max_epoch", 1, "did you mean --train#trainer#max_epochs"),
        ("xyzzy", 1, "see configs/train.json"),
        ("max_epochs", "abc", "should be a whole number from 1; the configs have"),
        ("max_epochs", 0, "whole number from 1"),
        ("max_epochs", 1.5, "whole number from 1"),
        ("max_epochs", None, "whole number from 1"),
        ("max_epochs", True, "followed by its value"),
        ("seed", -1, "a whole number from 0"),
        ("lr_patience", -1, "a whole number from 0"),
        ("learning_rate", -1, "a number above 0"),
        ("learning_rate", "abc", "a number above 0"),
        ("roi_size", 100, "2 sizes in pixels"),
        ("roi_size", [64, 64, 64], "2 sizes in pixels"),
        ("roi_size", [64, 0.5], "2 sizes in pixels"),
        ("roi_size", ["a", "b"], "2 sizes in pixels"),
        ("quiet", 3, "True or False"),
        ("weights", True, "followed by its value"),
        ("experiment_name", 5, "text"),
        ("window#overlap", "abc", "should be a number"),
        ("validate#preprocessing#transforms", 5, "should be a list"),
    ],
)
def test_overrides_that_do_not_fit(key: str, value: Any, told: str) -> None:
    with pytest.raises(InputError) as error:
        check_overrides(TRAIN, {key: value})
    assert str(error.value).startswith(f"--{key}") and told in str(error.value)


def test_places_are_checked_and_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    check_places(ConfigParser({"output_dir": str(tmp_path / "new" / "sub"), "weights": None}))
    with pytest.raises(InputError, match="is a file; choose another folder"):
        check_places(ConfigParser({"output_dir": str(tmp_path / "file" / "sub")}))
    with pytest.raises(InputError, match="there are no such weights; train first"):
        check_places(ConfigParser({"weights": "$'model' + '.pt'"}))
    with pytest.raises(InputError, match="file: holds no weights, or is cut off"):
        check_places(ConfigParser({"weights": str(tmp_path / "file")}))
    monkeypatch.setattr("os.access", lambda *_: False)  # the tests may run as root, who may write anywhere
    with pytest.raises(InputError, match="new: cannot be written to"):
        check_places(ConfigParser({"ckpt_dir": str(tmp_path / "new")}))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_new_bundle_is_a_copy_without_weights_and_results(tmp_path: Path) -> None:
    packaged = bundles.packaged_bundle()
    made = bundles.working_bundle(tmp_path / "deep" / "mine")
    for config in (packaged / "configs").glob("*.json"):
        assert json.loads((made / "configs" / config.name).read_text()) == json.loads(config.read_text())
    assert (made / "LICENSE").is_file() and not (made / "eval").exists()
    assert not [path for path in (made / "models").glob("*") if path.suffix in (".pt", ".json")]
    (made / "configs" / "train.json").write_text("{}")
    assert bundles.working_bundle(made) == made, "a bundle that is there stays as it is"
    assert (made / "configs" / "train.json").read_text() == "{}"


def test_what_is_no_bundle_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match="is not a bundle"):
            bundles.working_bundle(path)
        with pytest.raises(InputError, match="--bundle must name the folder of a bundle"):
            bundles.config_files(path, ["train"])
