"""Writers of networks in the formats of other programs; each reads back what it wrote and compares it."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from carde_monai.engines import STEPS, Compute, write_openvino
from carde_monai.errors import InputError
from carde_monai.export_model import INPUT, LOGIT, PROBABILITY, Model
from carde_monai.provenance import file_digest, temperature_record

OPSET, IR = 18, 8  # of ONNX: what torch's exporter is written for, and the oldest file format that has it
CLOSE = 1e-4  # of the largest value, when compared with torch
TOLD = "carde_monai.json"  # in a .pt2, the name of what is told of the model

Write = Callable[[nn.Module, Path, dict[str, Any], int], Compute]


@dataclass(frozen=True)
class Checked:
    """How far a file is from torch, relative to values above 1, and the step that divides sides."""

    difference: float
    step: int


class Head(nn.Module):
    """A network with a named input and, for programs that know no logits, the sigmoid behind it."""

    def __init__(self, network: nn.Module, output: str) -> None:
        super().__init__()
        self.network, self.probability = network, output == PROBABILITY

    def forward(self, image: Tensor) -> Tensor:
        """Logits or probabilities (B, 1, H, W) of normalised images (B, C, H, W)."""
        logit = self.network(image)
        return torch.sigmoid(logit) if self.probability else logit


def require(format: str, extra: str, *modules: str) -> None:
    """Raise InputError, with the command that installs them, if packages for a format are missing."""
    missing = [name for name in modules if not _installed(name)]
    if missing:
        remedy = f"pip install 'carde-monai[{extra}]'"
        raise InputError(f"--format {format}", f"needs {', '.join(missing)}, not installed here", remedy)


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package that it is a part of
        return False


def write_checked(model: Model, path: Path, format: str, output: str, write: Write) -> Checked:
    """Write with the smallest step of which sides must be multiples.

    What ``write`` returns, the file as it is read back, is compared on two sizes and batches with the network
    in float32.

    Raises:
        InputError: the format cannot hold the network.
    """
    head, reason = Head(model.network, output).eval(), ""
    for step in STEPS:
        try:
            with quiet():
                compute = write(head, path, model.told(output, step), step)
            difference = _difference(compute, head, len(model.channels), step)
        except OSError:
            raise
        except Exception as error:  # exporters raise whatever a network makes them stumble over
            reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            continue
        if difference <= CLOSE:
            return Checked(difference, step)
        reason = f"what it computes differs from torch by {difference:.2g}"
    raise InputError(f"--format {format}", f"cannot hold this network ({reason})", "try another format")


@torch.no_grad()
def _difference(compute: Compute, head: nn.Module, channels: int, step: int) -> float:
    worst, noise = 0.0, torch.Generator().manual_seed(0)
    for batch, rows, columns in ((1, 3, 5), (2, 5, 3)):
        image = torch.randn((batch, channels, rows * step, columns * step), generator=noise)
        expected = head(image)
        found = compute(image)
        if found.shape != expected.shape:
            raise RuntimeError(f"its output has the shape {tuple(found.shape)}")
        scale = max(1.0, float(expected.abs().max()))
        worst = max(worst, float((found - expected).abs().max()) / scale)
    return worst


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what exporters say of their own age and of their progress."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def write_pt(model: Model, path: Path) -> None:
    """The state dict alone, as MONAI's bundles load it, and beside it ``<stem>.json``."""
    torch.save(dict(model.network.state_dict()), path)
    told = model.told(LOGIT)
    # by these names carde-monai finds the calibration of weights
    known = temperature_record(model.weights, told["weights_sha256"])
    record = {key: known[key] for key in ("total_temperature", "section", "source") if key in known}
    record |= {"checkpoint": path.name, "checkpoint_sha256": file_digest(path)}
    path.with_suffix(".json").write_text(json.dumps(told | record, indent=2) + "\n", encoding="utf-8")


def write_pt2(model: Model, path: Path) -> Checked:
    """A program of torch.export, which gives probabilities."""

    def write(head: nn.Module, path: Path, told: dict[str, Any], step: int) -> Compute:
        program = _program(head, len(model.channels), step)
        torch.export.save(program, path, extra_files={TOLD: json.dumps(told)})
        return torch.export.load(path).module()

    return write_checked(model, path, "pt2", PROBABILITY, write)


def write_ts(model: Model, path: Path) -> Checked:
    """TorchScript as MONAI's ckpt_export writes it: logits, metadata and configs inside."""
    from monai.data import save_net_with_metadata
    from monai.networks.utils import convert_to_torchscript

    def write(head: nn.Module, path: Path, told: dict[str, Any], step: int) -> Compute:
        configs = {f"{file.stem}.json": file.read_bytes() for file in model.files}
        metadata = {**model.metadata, "export": told}
        script = convert_to_torchscript(model.network)
        save_net_with_metadata(script, str(path), False, False, metadata, configs)
        return torch.jit.load(path)

    return write_checked(model, path, "ts", LOGIT, write)


def write_onnx(model: Model, path: Path, output: str = PROBABILITY, format: str = "onnx") -> Checked:
    """ONNX, one file, with what is told of the model in its metadata_props."""
    require(format, "export", "onnx", "onnxscript", "onnxruntime")

    def write(head: nn.Module, path: Path, told: dict[str, Any], step: int) -> Compute:
        return _write_onnx(_program(head, len(model.channels), step), path, told)

    return write_checked(model, path, format, output, write)


def write_ir(model: Model, path: Path) -> Checked:
    """OpenVINO's xml and, beside it, bin; what is told of the model in its rt_info."""

    def write(head: nn.Module, path: Path, told: dict[str, Any], step: int) -> Compute:
        names = (INPUT, told["output"]["name"])
        return write_openvino(head, len(model.channels), path, names, as_text(told))

    return write_checked(model, path, "openvino", PROBABILITY, write)


def as_text(told: Mapping[str, Any]) -> dict[str, str]:
    """Names and texts, for formats that hold no others: nested values as JSON."""
    return {key: one if isinstance(one, str) else json.dumps(one) for key, one in told.items()}


def _program(head: nn.Module, channels: int, step: int) -> torch.export.ExportedProgram:
    """The network traced for any number of images, of sides that are multiples of ``step``."""
    side = torch.export.Dim
    shapes = {INPUT: {0: side("batch"), 2: step * side("row_steps"), 3: step * side("column_steps")}}
    example = torch.zeros(2, channels, 3 * step, 5 * step)
    with torch.no_grad():
        return torch.export.export(head, (example,), dynamic_shapes=shapes)


def _write_onnx(program: torch.export.ExportedProgram, path: Path, told: dict[str, Any]) -> Compute:
    import onnx
    import onnxruntime

    names = {"input_names": [INPUT], "output_names": [told["output"]["name"]]}
    exported = torch.onnx.export(program, opset_version=OPSET, verbose=False, **names)
    assert exported is not None
    proto = exported.model_proto
    _strip(proto)
    proto.ir_version = IR
    onnx.helper.set_model_props(proto, as_text(told))
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {INPUT: image.numpy()})[0])


def _strip(proto: Any) -> None:
    """Take out the exporter's notes, which name folders of this machine and came after the file format."""
    graph = proto.graph
    parts = (graph.node, graph.initializer, graph.input, graph.output, graph.value_info)
    for one in (proto, graph, *itertools.chain(*parts)):
        if one.metadata_props:
            del one.metadata_props[:]
        one.doc_string = ""


WRITERS: dict[str, Callable[[Model, Path], Checked | None]] = {
    "pt": write_pt,
    "pt2": write_pt2,
    "ts": write_ts,
    "onnx": write_onnx,
    "openvino": write_ir,
}
