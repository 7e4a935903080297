"""The single steps of a study: trainings, calibrations and evaluations by the bundle, each done once."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from carde_monai import bundles, datalist
from carde_monai.bundle_checks import check_overrides
from carde_monai.errors import InputError
from carde_monai.replacing import replace_text

logger = logging.getLogger("carde_monai")

# set by the study itself, one way for each training
OWN = {"dataset_dir", "ckpt_dir", "output_dir", "bundle_root", "run_file", "run_name", "fold", "sections"}
OWN |= {"weights", "resume", "bins", "tile"}


@dataclass(frozen=True)
class Training:
    """A training of the study: its name, its folder's below ``runs``, and what it trains on and how."""

    name: str
    data: Path
    mean_variance: bool = False
    tiles: bool = False
    fold: int | None = None


@dataclass(frozen=True)
class Workbench:
    """Runs the steps of a study below ``out``.

    A step is done when its stamp (``<step>.done.json`` beside its results) exists and names the same
    settings: configs with their contents, overrides, digest of the data. The stamp is written last, so that
    an interrupted step is done again as a whole; a new training removes what was made with the former one.

    Args:
        out: folder of the study.
        bundle: root folder of the bundle, which is only read.
        configs: overlays between train.json and the study's own, such as unet.
        overrides: settings of the configs; those of mean_variance.json are for its trainings alone.
        tile: edge of a tile in pixels.
    """

    out: Path
    bundle: Path
    configs: Sequence[str] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    tile: int = 128

    def check(self) -> None:
        """Raise InputError for overrides that name nothing, or that the study sets itself."""
        if own := OWN & set(self.overrides):
            raise InputError(f"--{min(own)}", "is set by the study itself", "leave it out")
        names = ["train", *self.configs, "mean_variance", "evaluate", "study"]
        check_overrides(bundles.config_files(self.bundle, names), self.overrides)

    def folder(self, training: Training) -> Path:
        """Of a training: ``models``, ``eval`` (table, curve, reliability) and the folders of evaluations."""
        return self.out / "runs" / training.name

    def train(self, training: Training) -> Path:
        """Train unless that is done; returns the folder of the training."""
        folder = self.folder(training)
        configs, settings = self._layers(training), self._settings(training)

        def act() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            bundles.run(self.bundle, configs, settings, training=True)

        self.once(folder / "train.done.json", self.facts(configs, settings, training.data), act)
        return folder

    def calibrate(self, training: Training) -> None:
        """Fold the temperature into the weights unless that is done."""
        configs, settings = [*self._layers(training), "calibrate"], self._settings(training)
        stamp = self.folder(training) / "calibrate.done.json"
        self.once(
            stamp,
            self.facts(configs, settings, training.data),
            lambda: bundles.run(self.bundle, configs, settings, training=True),
        )

    def evaluate(
        self, training: Training, sections: Sequence[str], name: str, data: Path | None = None
    ) -> Path:
        """Evaluate unless that is done, and return the folder of the results.

        ``data`` are whole micrographs for a network that was trained on tiles; else it is the data set of the
        training. Tiles get no baseline: that needs whole frames of raw greys.
        """
        tiles = training.tiles and data is None
        folder = self.folder(training) / name
        configs = [*self._layers(training, tiles), "evaluate", "study", *(["study_tiles"] if tiles else [])]
        settings = self._settings(training, tiles) | {
            "output_dir": str(folder),
            "sections": list(sections),
            "tile": self.tile,
        }
        if data is not None:
            settings |= {"dataset_dir": str(data), "fold": None}
        self.once(
            folder / "evaluate.done.json",
            self.facts(configs, settings, data or training.data),
            lambda: bundles.run(self.bundle, configs, settings, training=True),
        )
        return folder

    def search_settings(self) -> dict[str, Any]:
        """The overrides for a hyperparameter search, without those of what it varies."""
        (file,) = bundles.config_files(self.bundle, ["tune"])
        config = json.loads(Path(file).read_text(encoding="utf-8"))
        varied = {*config["search_space"], *config["fixed"], *self.of_mean_variance}
        settings = {key: value for key, value in self.overrides.items() if key not in varied}
        return {"experiment_name": self.experiment, "tracking_uri": self.tracking_uri} | settings

    def once(self, stamp: Path, settings: Mapping[str, Any], act: Callable[[], object]) -> None:
        """Do a step unless its stamp names the same settings; then write the stamp."""
        facts = json.loads(json.dumps(settings, default=str))
        step = f"{stamp.parent.relative_to(self.out)}: {stamp.name.removesuffix('.done.json')}"
        try:
            done = json.loads(stamp.read_text(encoding="utf-8")) == facts
        except (OSError, ValueError):
            done = False
        print(f"\n== {step}{' (done before)' if done else ''}", flush=True)
        if done:
            return
        stamp.unlink(missing_ok=True)
        act()
        stamp.parent.mkdir(parents=True, exist_ok=True)
        replace_text(stamp, json.dumps(facts, indent=2) + "\n")

    def _layers(self, training: Training, tiles: bool | None = None) -> list[str]:
        tiles = training.tiles if tiles is None else tiles
        variance = ["mean_variance"] if training.mean_variance else []
        return ["train", *self.configs, *variance, *(["tiles"] if tiles else [])]

    def _settings(self, training: Training, tiles: bool | None = None) -> dict[str, Any]:
        tiles = training.tiles if tiles is None else tiles
        folder = self.folder(training)
        passed_over = set() if training.mean_variance else self.of_mean_variance
        if tiles:  # a tile is one crop and one window
            passed_over = passed_over | {"window_size", "crops_per_micrograph", "roi_size"}
        settings = {key: value for key, value in self.overrides.items() if key not in passed_over}
        if tiles:
            settings["roi_size"] = [self.tile, self.tile]
        if training.fold is not None:
            settings["fold"] = training.fold
        return {
            "experiment_name": self.experiment,
            "tracking_uri": self.tracking_uri,
            "from_scratch": True,  # as the publication does it
            **settings,
            "dataset_dir": str(training.data),
            "ckpt_dir": str(folder / "models"),
            "output_dir": str(folder / "eval"),
            "run_name": training.name,
        }

    @property
    def experiment(self) -> str:
        """Of MLflow."""
        return self.overrides.get("experiment_name", "study")

    @property
    def tracking_uri(self) -> str | None:
        """Of MLflow: an SQLite file in ``out`` unless it is overridden."""
        return self.overrides.get("tracking_uri", f"sqlite:///{self.out.absolute()}/mlflow.db")

    @cached_property
    def of_mean_variance(self) -> set[str]:
        (file,) = bundles.config_files(self.bundle, ["mean_variance"])
        return set(json.loads(Path(file).read_text(encoding="utf-8"))) | {"warmup_epochs"}

    def facts(self, configs: Sequence[str], settings: Mapping[str, Any], data: Path) -> dict[str, Any]:
        """What a step depends on."""
        parser = ConfigParser()
        parser.read_config(bundles.config_files(self.bundle, configs))
        content = {key: value for key, value in parser.get().items() if key != ConfigParser.meta_key}
        merged = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        return {
            "configs": list(configs),
            "configs_sha256": merged,
            "overrides": dict(settings),
            "data": datalist.digest(data),
        }
