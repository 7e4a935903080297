"""Calibrates a checkpoint while an evaluator runs over the validation split."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from carde_monai.calibration import (
    Fit,
    LogitHistogram,
    Reliability,
    fit_temperature,
    fold_temperature,
    read_points,
    reliability,
)
from carde_monai.errors import InputError
from carde_monai.handlers.baseline import decollated
from carde_monai.handlers.segmentation import micrograph_name
from carde_monai.provenance import file_digest, temperature_record
from carde_monai.replacing import replace_file, replace_text
from carde_monai.report import reliability_diagram

SHORT_OF_PIXELS = "calibrate on validation micrographs with carbides, with a network that has been trained"


class TemperatureScaling:
    """Fit the temperature on an evaluator's logits and fold it into ``layer`` of the checkpoint it evaluated.

    Needs decollated items with ``section`` and ``name`` in the batch, ``logit`` and ``label`` in the output.
    At the end rank 0 writes ``reliability.png`` into ``output_dir``, ``calibration.json`` beside
    ``checkpoint`` (a state dict, or a dict with one under ``model``), and replaces that, so that nothing is
    folded twice after a kill; every rank folds T into ``network``, if given, and puts temperature and figures
    into ``engine.state.metrics``. ``beside`` maps names to the ``calibration.json`` of other runs, whose
    uncalibrated curve is drawn, too. Raises InputError for items of another section than ``section``, for a
    checkpoint that cannot be read or is not the network's, and where no T exists.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        layer: str,
        output_dir: str | Path,
        section: str = "validation",
        network: torch.nn.Module | None = None,
        beside: Mapping[str, str | Path] | None = None,
    ) -> None:
        if section == "training":
            raise InputError("section training", "no temperature can be fitted on it", "use validation")
        self.checkpoint = Path(checkpoint)
        self.layer = layer
        self.output_dir = Path(output_dir)
        self.section = section
        self.beside = {name: read_points(path) for name, path in (beside or {}).items()}
        self.network = network
        if isinstance(network, torch.nn.parallel.DistributedDataParallel):
            self.network = network.module
        self._histogram = LogitHistogram()
        self._names: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Subscribe to the start, every iteration and the end of a run."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def _start(self, engine: Engine) -> None:
        # A checkpoint that cannot be folded is better found now than after the evaluation.
        weights = _weights(_load(self.checkpoint))
        self._fold(weights, 1.0)
        name = f"{self.layer}.weight"
        live = None if self.network is None else self.network.state_dict().get(name)
        if self.network is not None and (live is None or not torch.equal(live.cpu(), weights[name].cpu())):
            raise InputError(self.checkpoint, f"its {name} is not the evaluated network's", "load it first")
        self._histogram, self._names = LogitHistogram(), []

    def __call__(self, engine: Engine) -> None:
        for item, output in decollated(engine):
            name = micrograph_name(item)
            if item.get("section") != self.section:
                raise InputError(
                    name,
                    f"is of the section {item.get('section')!r}, calibration wants {self.section!r}",
                    "run calibrate on the validation split, never on micrographs the network was trained on",
                )
            try:
                self._histogram.update(output["logit"], output["label"])
            except ValueError as error:
                raise InputError(name, str(error), "check its label and the network's output") from None
            self._names.append(name)

    def _complete(self, engine: Engine) -> None:
        self._histogram.all_reduce()
        parts: Any = idist.all_gather(self._names)
        try:
            fit = fit_temperature(self._histogram)
        except ValueError as error:
            raise InputError(self.checkpoint, str(error), SHORT_OF_PIXELS) from None
        before, after = reliability(self._histogram), reliability(self._histogram, fit.temperature)
        if idist.get_rank() == 0:
            self._write(fit, before, after, sorted({name for part in parts for name in part}))
        if self.network is not None:
            folded = fold_temperature(self.network.state_dict(), fit.temperature, self.layer)
            self.network.load_state_dict(folded)
        engine.state.metrics["temperature"] = fit.temperature
        for moment, figures in (("before", before), ("after", after)):
            for key in ("nll", "ece", "brier"):
                engine.state.metrics[f"{key}_{moment}"] = getattr(figures, key)

    def _fold(self, weights: dict[str, Any], temperature: float) -> dict[str, Any]:
        try:
            return fold_temperature(weights, temperature, self.layer)
        except InputError as error:
            raise InputError(self.checkpoint, str(error)) from None

    def _write(self, fit: Fit, before: Reliability, after: Reliability, names: list[str]) -> None:
        content = _load(self.checkpoint)
        former, digest = total_temperature(self.checkpoint), file_digest(self.checkpoint)
        record = {
            "temperature": fit.temperature,
            "total_temperature": former * fit.temperature,
            "iterations": fit.iterations,
            "layer": self.layer,
            "checkpoint": self.checkpoint.name,
            "checkpoint_sha256": "",
            "former_sha256": digest,
            "former_temperature": former,
            "section": self.section,
            "micrographs": names,
            "before": asdict(before),
            "after": asdict(after),
        }
        self.output_dir.mkdir(parents=True, exist_ok=True)
        picture = self.output_dir / "reliability.png"
        reliability_diagram(before.points, after.points, picture, beside=self.beside)
        folded = _with_weights(content, self._fold(_weights(content), fit.temperature))
        replace_file(self.checkpoint, lambda path: self._save(folded, path, record))

    def _save(self, folded: dict[str, Any], path: Path, record: dict[str, Any]) -> None:
        """Write what is to replace the checkpoint, and before it does, the record, which fits both."""
        torch.save(folded, path)
        record["checkpoint_sha256"] = file_digest(path)
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
        replace_text(_record(self.checkpoint), text)


def _record(checkpoint: Path) -> Path:
    return checkpoint.with_name("calibration.json")


def _load(checkpoint: Path) -> dict[str, Any]:
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(checkpoint, "there is no such checkpoint", "train first") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise InputError(checkpoint, f"cannot be read as a checkpoint ({error})", "train again") from None
    if not isinstance(content, dict):
        raise InputError(checkpoint, "holds no weights", "name the checkpoint that the training wrote")
    return content


def _is_nested(content: dict[str, Any]) -> bool:
    return isinstance(content.get("model"), dict)


def _weights(content: dict[str, Any]) -> dict[str, Any]:
    return content["model"] if _is_nested(content) else content


def _with_weights(content: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    return {**content, "model": weights} if _is_nested(content) else weights


def total_temperature(checkpoint: Path) -> float:
    """Product of the temperatures already in this very file; 1 if it was never calibrated or trained anew."""
    digest = file_digest(checkpoint)
    if record := temperature_record(checkpoint, digest):
        return float(record["total_temperature"])
    # a calibration that was killed before it replaced the checkpoint has told what it was
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(_record(checkpoint).read_text(encoding="utf-8"))
        if record["former_sha256"] == digest:
            return float(record["former_temperature"])
    return 1.0
