"""The evaluated bundle as an MLflow model: `Registration` saves it, MLflow loads it by `_load_pyfunc`."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

from carde_monai.bundles import packaged_bundle
from carde_monai.errors import InputError
from carde_monai.provenance import file_digest, temperature_record, weight_files
from carde_monai.replacing import PART

FOLDER = "mlflow_model"  # in output_dir
EXAMPLE = 64  # rows and columns of the input example: it is stored as text
PINNED = ("carde-monai", "mlflow", "monai", "numpy", "openvino", "pytorch-ignite", "scikit-image", "torch")
# what decides on the probability, in inference.json and in a training's configs alike
SHARED = ("classes", "network_def", "normalize", "window_size", "window", "one_view", "inferer")
SHARED += ("unpack", "checkpointloader")


class Registration:
    """Saves the bundle that an evaluation has judged as an MLflow model, to be registered as ``name``.

    Args:
        name: of the model in MLflow's registry.
        bundle_root: folder of the bundle, for its ``configs/inference.json`` and ``configs/metadata.json``.
        weights: the evaluated ones, several with commas.
        output_dir: folder of the evaluation; the model is written to ``mlflow_model`` in it.

    Raises:
        InputError: the name is none that a registry takes.
    """

    def __init__(self, name: str, bundle_root: str | Path, weights: str, output_dir: str | Path) -> None:
        if isinstance(name, bool):
            raise InputError("--register", "stands without its value", "write --register NAME")
        self.name, self.weights = str(name), weights
        if not re.fullmatch(r"\w[\w .-]*", self.name) or self.name.endswith((" ", ".")):
            remedy = "a name has letters, digits, blanks, _, - and ."
            raise InputError(f"--register {self.name}", "is no name for a model", remedy)
        self.bundle_root, self.output_dir = Path(bundle_root), Path(output_dir)

    def save(self, config: Mapping[str, Any], frame: np.ndarray) -> Path:
        """Write the model in place of an earlier one; return its folder.

        Args:
            config: of the evaluation (`tracking_facts.running_config`); says which network and windows.
            frame: raw greys (C, H, W) of a micrograph, the middle of which is the model's input example.
        """
        dest = self.output_dir / FOLDER
        with tempfile.TemporaryDirectory(prefix=PART, dir=self.output_dir) as name:
            bundle, model = Path(name, "bundle"), Path(name, "model")
            pack(self.bundle_root, self.weights, config, bundle)
            _save(bundle, model, middle(frame, EXAMPLE))
            shutil.rmtree(dest, ignore_errors=True)
            os.replace(model, dest)
        return dest


def pack(bundle_root: Path, weights: str, config: Mapping[str, Any], dest: Path) -> None:
    """Write a bundle that segments arrays as ``config``, an evaluation's, segments files.

    ``configs/inference.json`` is the bundle's own, ``configs/in_memory.json`` the overlay for arrays;
    ``configs/served.json``, a further overlay, says what differs; the weights lie in ``models``, with the
    record of their calibration.
    """
    configs, models = dest / "configs", dest / "models"
    for folder in (configs, models):
        folder.mkdir(parents=True)
    for name in ("inference.json", "metadata.json"):
        shutil.copyfile(bundle_root / "configs" / name, configs / name)
    # bundles that were made by an earlier version have none
    shutil.copyfile(packaged_bundle() / "configs" / "in_memory.json", configs / "in_memory.json")
    files = weight_files(weights)
    names = ["model.pt"] if len(files) == 1 else [f"model_{i}.pt" for i in range(len(files))]
    for file, name in zip(files, names, strict=True):
        shutil.copyfile(file, models / name)
        if record := temperature_record(file, file_digest(file)):
            beside = "calibration.json" if len(files) == 1 else f"{Path(name).stem}.json"
            (models / beside).write_text(json.dumps(record, indent=4), encoding="utf-8")
    base = json.loads((configs / "inference.json").read_text(encoding="utf-8"))
    served = evaluated(config, base)
    served["weights"] = "$" + " + ',' + ".join(f"@bundle_root + '/models/{name}'" for name in names)
    (configs / "served.json").write_text(json.dumps(served, indent=4), encoding="utf-8")


def evaluated(config: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """An overlay on ``base``, inference.json, that makes it predict as ``config``, an evaluation's.

    It has those of `SHARED` in which the two differ, and the ids that these refer to.
    """
    found: dict[str, Any] = {}
    names = [name for name in SHARED if name in config]
    while names:
        name = names.pop()
        if name in found or (name in base and base[name] == config[name]):
            continue
        found[name] = config[name]
        named = re.findall(r"@(\w+)", json.dumps(config[name]))
        names += [one for one in named if one in config and (one in SHARED or one not in base)]
    text = json.dumps(found)
    used = [one for one in config.get("imports", []) if re.search(rf"\b{one.split()[-1]}\b", text)]
    imports = [one for one in used if one not in base["imports"]]
    return found | ({"+imports": imports} if imports else {})


def middle(frame: np.ndarray, edge: int) -> np.ndarray:
    """The middle of an image (C, H, W), at most ``edge`` pixels high and wide, as a batch (1, C, h, w)."""
    top, left = (max(0, (size - edge) // 2) for size in frame.shape[1:])
    return np.asarray(frame[None, :, top : top + edge, left : left + edge], np.float32)


def _save(bundle: Path, folder: Path, example: np.ndarray) -> None:
    """Write the MLflow model of a packed bundle, for environments in which carde_monai is installed."""
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    grey = np.dtype(np.float32)
    greys, probability = TensorSpec(grey, (-1, 2, -1, -1)), TensorSpec(grey, (-1, 1, -1, -1))
    with warnings.catch_warnings():  # MLflow warns of a class of its own when this part of it is loaded
        warnings.filterwarnings("ignore", ".*Any type hint", UserWarning)
        pyfunc.save_model(
            str(folder),
            loader_module=__name__,
            data_path=str(bundle),
            signature=ModelSignature(Schema([greys]), Schema([probability])),
            input_example=example,
            # +cpu and the like are no versions that a package index knows
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in PINNED],
        )


class BundleModel:
    """Segments arrays with a bundle that `pack` has written, by its own inference config."""

    def __init__(self, bundle: str | Path) -> None:
        configs = Path(bundle, "configs")
        parser = ConfigParser()
        parser.read_config([str(configs / f"{name}.json") for name in ("inference", "in_memory", "served")])
        parser.read_meta(str(configs / "metadata.json"))
        parser.update({"bundle_root": str(bundle), "images": [None]})
        parser.get_parsed_content("initialize")
        self._dataset = parser.get_parsed_content("dataset")
        self._evaluator = parser.get_parsed_content("evaluator")
        self._evaluator.logger.setLevel("WARNING")  # it tells the start and the end of every frame
        self._lock = threading.Lock()  # a server answers in several threads

    def predict(self, frames: Any, params: dict[str, Any] | None = None) -> np.ndarray:
        """Calibrated probability of carbide (N, 1, H, W), float32.

        Args:
            frames: raw greys (N, 2, H, W) of any numeric type, channel 0 SE2, channel 1 InLens, without the
                info bar.
            params: what MLflow may pass; there are none.

        Raises:
            InputError: the array has another shape, or holds values that are not finite.
        """
        frames = np.asarray(frames, np.float32)
        if frames.ndim != 4 or frames.shape[1] != 2 or 0 in frames.shape[2:]:
            remedy = "give (N, 2, rows, columns): SE2 and InLens"
            raise InputError("the input", f"has the shape {frames.shape}", remedy)
        if not np.isfinite(frames).all():
            raise InputError("the input", "holds values that are not finite", "give raw greys")
        with self._lock:
            found = [self._probability(frame) for frame in frames]
        return np.array(found, np.float32).reshape(len(frames), 1, *frames.shape[2:])

    def _probability(self, frame: np.ndarray) -> np.ndarray:
        self._dataset.data[0] = {"image": np.moveaxis(frame, 0, -1)}  # as the reader gives a file
        self._evaluator.run()
        return np.asarray(self._evaluator.state.output[0]["probability"].cpu())


def _load_pyfunc(data_path: str) -> BundleModel:
    """What MLflow calls to load the model."""
    return BundleModel(data_path)
