"""What an MLflow run is compared by: settings in force, what differs from the bundle's own, its name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, SMALL
from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH
from monai.bundle import ConfigParser

from carde_monai.tracking_facts import (
    NAME,
    changed,
    compared,
    description,
    flatten_config,
    settings,
    short_name,
)
from carde_monai.tracking_view import experiment_tags

CONFIGS = REPOSITORY / "bundle" / "configs"


def merged(*names: str, **overrides: Any) -> dict[str, Any]:
    """The config of a run with these configs of the bundle."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in names])
    parser.update({"bundle_root": str(CONFIGS.parent), **overrides})
    return {key: value for key, value in parser.get().items() if key != ConfigParser.meta_key}


def test_settings_are_values_not_wires() -> None:
    config = {
        "learning_rate": 0.1,
        "amp": "$networks.bf16_is_fast(@device)",
        "device": "$torch.device('cpu')",
        "unknown": "$1 + 1",
        "nothing": {},
        "output_dir": "/somewhere",
        "network_def": {"_target_": "UNet", "depth": "@depth", "features": [4, 8], "act": None},
        "train": {
            "transforms": ["@load", {"_target_": "RandFlipd", "keys": ["image"], "prob": 0.5}],
            "handlers": [{"_target_": "StatsHandler", "tag_name": "loss"}],
        },
        "validate": {"handlers": ["@a"], "preprocessing": ["@load", "@typed"]},
        "address": "$'http://me:secret@host'",
    }
    resolved = {"amp": True, "device": object(), "address": "http://me:secret@host"}
    expected = {
        "learning_rate": "0.1",
        "amp": "True",
        "network_def::_target_": "UNet",
        "network_def::features": "[4, 8]",
        "network_def::act": "None",
        "train::transforms::1::_target_": "RandFlipd",
        "train::transforms::1::prob": "0.5",
        "address": "http://host",
    }
    assert settings(config, resolved) == expected
    assert settings({}) == {}
    few = compared(config, resolved, {"train::transforms::1::prob": "0.5"})
    left_out = {"network_def::_target_", "train::transforms::1::_target_"}
    assert few == {id: value for id, value in expected.items() if id not in left_out}


def test_no_number_of_the_training_is_passed_over() -> None:
    config = merged("train")
    found, everything = settings(config), flatten_config(config)
    assert found.items() <= everything.items()
    left = [key for key, value in everything.items() if key not in found and value.replace(".", "").isdigit()]
    assert not [key for key in left if "handlers" not in key]


@pytest.mark.parametrize(
    "names", [["train"], ["train", "unet"], ["train", "mean_variance"], ["train", "tune"]]
)
def test_a_run_is_compared_by_few_settings(names: list[str]) -> None:
    config = merged(*names)
    found = compared(config, {}, changed(config))
    assert {"learning_rate", "batch_size", "max_epochs", "roi_size", "network_def::norm"} <= set(found)
    assert len(found) <= 30 and "pruner::n_startup_trials" not in found


def test_what_a_run_changes() -> None:
    assert changed(merged("train")) == {}
    config = merged("train", learning_rate=0.01, output_dir="/x", **{"train#augmentation#noise": 0})
    assert changed(config) == {"learning_rate": "0.01", "train::augmentation::noise": "0"}
    assert compared(config, {}, changed(config))["train::augmentation::noise"] == "0"
    assert "train::augmentation::noise" not in compared(config, {}, {})
    told = changed(merged("train", "unet", depth=2, **SMALL))
    assert list(told)[:2] == ["depth", "features"] and told["roi_size"] == "[64, 64]"
    assert "network_def::_target_" not in told  # the class of the network stands beside it


@pytest.mark.parametrize("text", ["", "[]", "{", None])
def test_a_damaged_installation_stops_no_training(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    if text is not None:
        (tmp_path / "configs" / "train.json").write_text(text)
    monkeypatch.setattr("carde_monai.tracking_facts.packaged_bundle", lambda: tmp_path)
    assert changed({"learning_rate": 1}) == {}


def test_names_tell_what_differs_and_stay_short() -> None:
    changes = {"depth": "2", "max_epochs": "9", "train::augmentation::noise": "0", "long": "x" * NAME}
    assert short_name(changes | {"b": "1"}, "UNet 1122-203000") == "depth=2 noise=0 b=1 UNet 1122-203000"
    assert short_name({}, "UNet 1122-203000") == "UNet 1122-203000" and short_name({"a": "1"}, "") == "a=1"


def test_the_description_tells_what_was_changed() -> None:
    text = description({"run/command": "train"}, "", {"learning_rate": "0.1", "depth": "2"})
    assert text == "**Settings** `learning_rate` 0.1, `depth` 2\n\n**Command** `train`"


# ---- the pages -----------------------------------------------------------------------------------------


def test_the_views_of_an_experiment_are_what_mlflow_reads() -> None:
    tags = experiment_tags(1_700_000_000_000)
    assert all(len(value) <= MAX_EXPERIMENT_TAG_VAL_LENGTH for value in tags.values())
    states = {}
    for key in ("trainings", "pictures"):
        view = json.loads(tags[f"mlflow.sharedViewState.{key}"])
        assert {type(view["name"]), type(view["state"])} == {str} and view["createdAt"] == 1_700_000_000_000
        states[key] = json.loads(view["state"])
        assert states[key]["orderByKey"] == "metrics.`best/val_mean_dice`" and not states[key]["orderByAsc"]
    table = states["trainings"]
    assert set(table["selectedColumns"]) < set(table["columnOrder"]) == set(table["columnWidths"])
    known = compared(merged("train"), {}, {}) | dict.fromkeys(["network/class", "data/training"])
    chosen = [name for name in table["selectedColumns"] if name.startswith("params.")]
    assert chosen and {name.split("`")[1] for name in chosen} <= set(known)


def test_the_pictures_of_the_view_are_those_that_the_configs_record() -> None:
    view = json.loads(experiment_tags(0)["mlflow.sharedViewState.pictures"])
    charts = json.loads(view["state"])["compareRunCharts"]
    recorded = {f"training/{Path(one).stem}" for one in names_of_pictures(merged("train")["run_artifacts"])}
    for stage, overlay in (("calibration", "calibrate"), ("evaluation", "evaluate")):
        artifacts = merged("train", overlay)["validate"]["mlflow"]["artifacts"]
        recorded |= {f"{stage}/{Path(one).stem}" for one in names_of_pictures(artifacts)}
    assert {one["imageKeys"][0] for one in charts} == recorded
    assert not any(one["showRunParams"] for one in charts)


def names_of_pictures(artifacts: list[str]) -> list[str]:
    return [found[1] for one in artifacts if (found := re.search(r"'/(\w+\.png)'", one))]
