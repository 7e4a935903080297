"""A bundle's network with its weights, and what a program that knows no bundle must be told of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from carde_monai import __version__
from carde_monai.bundle_checks import check_overrides, check_places, explained
from carde_monai.bundles import config_files
from carde_monai.errors import InputError
from carde_monai.provenance import calibration_origin, file_digest, temperature_record, weight_files

INPUT, LOGIT, PROBABILITY = "image", "logit", "probability"
MEANING = {
    LOGIT: "logit of carbide, calibrated: its sigmoid is the probability; carbide where it is above 0",
    PROBABILITY: "calibrated probability of carbide, 0 to 1; carbide where it is above 0.5",
}
PERCENTILES = "ScaleIntensityRangePercentilesd"  # of MONAI; channel by channel in our configs
MEDIAN = "carde_monai.transforms.RobustScaled"


@dataclass(frozen=True)
class Normalization:
    """(grey - p_lower) / (p_upper - p_lower) * gain + offset, p percentiles of a channel over its frame."""

    lower: float
    upper: float
    gain: float
    offset: float

    def __str__(self) -> str:
        low, high = f"p{self.lower:g}", f"p{self.upper:g}"
        scaled = f"(grey - {low}) / ({high} - {low})"
        if self.gain != 1:
            scaled += f" * {self.gain:g}"
        if self.offset:
            scaled += f" {'-' if self.offset < 0 else '+'} {abs(self.offset):g}"
        return f"each channel: {scaled}, {low} and {high} percentiles over the whole frame; not clipped"


@dataclass(frozen=True)
class Model:
    """A network on the CPU in evaluation mode, and its bundle.

    ``channels`` are the detectors in the order in which the network takes them, ``metadata`` is the bundle's
    metadata.json, ``parser`` holds its configs, which stand in ``files``.
    """

    network: nn.Module
    weights: Path
    channels: tuple[str, ...]
    metadata: dict[str, Any]
    parser: ConfigParser
    files: tuple[Path, ...]

    @property
    def normalization(self) -> Normalization | None:
        """How the configs scale the channels; None if not by percentiles."""
        config = self.parser["normalize"]
        kind = str(config["_target_"]).rpartition(".")[2]
        linear = config.get("channel_wise") and not (config.get("clip") or config.get("relative"))
        if kind != PERCENTILES or not linear or None in (config.get("b_min"), config.get("b_max")):
            return None
        gain = config["b_max"] - config["b_min"]
        return Normalization(config["lower"], config["upper"], gain, config["b_min"])

    def told(self, output: str, step: int | None = None) -> dict[str, Any]:
        """What goes into a file, as JSON: ``output`` is LOGIT or PROBABILITY, ``step`` divides sides."""
        digest = file_digest(self.weights)
        record = temperature_record(self.weights, digest)
        return {
            "name": self.metadata["name"],
            "version": self.metadata["version"],
            "description": self.metadata["description"],
            "input": {
                "name": INPUT,
                "axes": "batch, channel, row, column",
                "dtype": "float32",
                "channels": list(self.channels),
                "one_detector": "goes into both channels",
                **({"sides": f"multiples of {step} pixels"} if step else {}),
                "normalization": self._normalization_text(),
            },
            "output": {"name": output, "axes": "batch, channel, row, column", "meaning": MEANING[output]},
            "temperature": record.get("total_temperature"),
            "calibration": calibration_origin(record) + (", folded into the weights" if record else ""),
            "network": self.parser["network_def"],
            "weights": self.weights.name,
            "weights_sha256": digest,
            "intended_use": self.metadata["intended_use"],
            "license": "Apache-2.0",
            "made_by": f"carde-monai {__version__}",
        }

    def _normalization_text(self) -> str:
        if self.normalization:
            return str(self.normalization)
        if self.parser["normalize"]["_target_"] == MEDIAN:
            return "each channel: (grey - p50) / (p75 - p25), percentiles over the whole frame"
        return json.dumps(self.parser["normalize"])


def load_model(bundle: Path, overlays: Sequence[str], overrides: Mapping[str, Any], folder: Path) -> Model:
    """The network of a bundle's inference configs, with its weights; ``folder`` is where it will go.

    Raises:
        InputError: a config, an override or the weights do not fit, the weights are an ensemble, an overlay
            computes the probability from more than one pass, or ``folder`` cannot be written to.
    """
    files = config_files(bundle, ["inference", *overlays])
    overrides = {"bundle_root": str(bundle), **overrides}
    check_overrides(files, overrides)
    parser = ConfigParser()
    parser.read_config(files)
    parser.read_meta(str(bundle / "configs" / "metadata.json"))
    parser.update({**overrides, "output_dir": str(folder)})
    with explained(parser, overrides):
        weights = _single(parser.get_parsed_content("weights"))
        check_places(parser)
        _check_single_pass(parser, overlays)
        network = parser.get_parsed_content("network_def")
        content = torch.load(weights, map_location="cpu", weights_only=True)
        network.load_state_dict(content.get("model", content))
    metadata = parser["_meta_"]
    names = metadata["network_data_format"]["inputs"]["image"]["channel_def"]
    order = parser["normalize"].get("channels") or range(len(names))
    channels = tuple(names[str(number)] for number in order)
    return Model(network.eval(), weights, channels, metadata, parser, tuple(map(Path, files)))


def _single(weights: Any) -> Path:
    if weights is None:
        raise InputError("--weights None", "leaves nothing to export", "name a model.pt")
    files = weight_files(weights)
    if len(files) > 1:
        raise InputError(f"--weights {weights}", "is an ensemble, a file holds one network", "export each")
    return files[0]


def _check_single_pass(parser: ConfigParser, overlays: Sequence[str]) -> None:
    """The configs' ``unpack`` does nothing where the probability is the sigmoid of the network's output."""
    if not str(parser["unpack"]["_target_"]).endswith("Identityd"):
        wrong = "computes the probability from several passes or draws, which an exported file cannot"
        raise InputError(f"--overlay {','.join(overlays)}", wrong, "use that model with carde-monai segment")


def citations(model: Model) -> list[tuple[str, str]]:
    """Text and address of what the bundle's metadata refer to; references without an address are left out."""
    found = []
    for text in model.metadata["references"]:
        if address := re.search(r"https?://\S+", text):
            found.append((text.replace(address.group(), "").strip(), address.group()))
    return found
