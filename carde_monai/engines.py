"""The network computed by OpenVINO, which is about twice as fast on a CPU as torch (docs/README.md).

It stands behind the ``forward`` of the network itself, so that checkpoints, configs and MONAI's engines see
the network that they know, and torch takes over wherever OpenVINO cannot.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import logging
import math
import os
import sys
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from carde_monai.errors import InputError
from carde_monai.networks import autocast, bf16_is_fast

# the configs find bf16_is_fast here
__all__ = ["ENGINES", "accelerate", "bf16_is_fast", "cache_dir", "write_openvino"]

ENGINES = ("openvino", "torch")
KEPT = 8  # converted networks in the cache on disk
COMPILED = 64  # compiled ones in memory: more members of an ensemble than anyone trains
CONVERSION = 2  # part of the digest: higher when `_convert` or what it gets changes
STEPS = (16, 32, 64)  # sides of an image are multiples of a step, which depends on the network's depth
TOLERANCE = {"f32": 1e-3, "bf16": 0.1}  # of the largest logit, when compared with torch

Compute = Callable[[Tensor], Tensor]

logger = logging.getLogger("carde_monai")


def accelerate(network: nn.Module, engine: str = "openvino", amp: bool = False) -> nn.Module:
    """Let OpenVINO compute ``network`` (B, C, H, W) -> (B, K, H, W) where it can; returns the network.

    It can on the CPU, in evaluation mode, without gradients, in float32 or, with ``amp``, in bfloat16. The
    weights are converted at the first image, again whenever they have changed, and kept in `cache_dir` by
    their digest. Each conversion is compared with torch on small images. Where OpenVINO is not installed,
    refuses the network or its size of image, or differs, torch computes as ever, and a line says why.

    Raises:
        InputError: there is no such engine.
    """
    if engine not in ENGINES:
        raise InputError(f"--engine {engine}", "is no engine", f"choose from {', '.join(ENGINES)}")
    plain = (
        network.forward
    )  # converted in its place: a trace of autocast has batch norm folded into rounded weights
    autocast(network, amp)
    if engine == "openvino":
        network.forward = _Engine(network, plain, "bf16" if amp else "f32").wrap()  # type: ignore[method-assign]
    return network


def cache_dir() -> Path:
    """Where converted networks are kept: beside MONAI's downloads in torch's cache (TORCH_HOME moves it)."""
    return Path(torch.hub.get_dir()) / "carde_monai" / "openvino"


def write_openvino(
    network: nn.Module, channels: int, path: Path, names: tuple[str, str], told: Mapping[str, str]
) -> Compute:
    """Write a network as ``path`` (.xml) and a .bin beside it; returns what computes by them, in float32.

    ``names`` are those of input and output, ``told`` goes into the model's rt_info under ``carde_monai``.
    """
    model = _convert(network, channels)
    for port, name in zip((model.input(0), model.output(0)), names, strict=True):
        port.get_tensor().set_names({name})
    for key, text in told.items():
        model.set_rt_info(text, ["carde_monai", key])
    _openvino().save_model(model, path, compress_to_fp16=False)
    return _compute(_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}))


class _Engine:
    """What `accelerate` puts in the place of a network's ``forward``."""

    def __init__(self, network: nn.Module, plain: Callable[..., Tensor], precision: str) -> None:
        self.network, self.plain, self.precision = network, plain, precision
        self.torch: Callable[..., Tensor] = network.forward
        self.compiled: OrderedDict[tuple[Any, ...], tuple[Compute, int]] = OrderedDict()
        self.gone = False  # whether OpenVINO was given up
        self.said: set[tuple[int, ...]] = set()  # sizes that torch computes

    def wrap(self) -> Callable[..., Tensor]:
        @functools.wraps(self.torch)  # keeps the signature, by which an export names its inputs
        def forward(image: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if args or kwargs or not self._applies(image):
                return self.torch(image, *args, **kwargs)
            try:
                compute, step = self._present(image.shape[1])
            except Exception as error:  # whatever the reason, torch can do it
                self.gone = True
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                logger.warning("torch computes the network, OpenVINO cannot: %s", reason)
                return self.torch(image)
            if any(side % step for side in image.shape[2:]):  # torch pads inside, a trace of it does not
                self._say(image.shape[2:], step)
                return self.torch(image)
            return compute(image)

        return forward

    def _applies(self, image: Tensor) -> bool:
        exporting = torch.jit.is_tracing() or torch.compiler.is_compiling()
        learning = self.network.training or torch.is_grad_enabled()
        fits = image.device.type == "cpu" and image.dtype == torch.float32 and image.ndim == 4
        return fits and not (self.gone or exporting or learning)

    def _say(self, size: Sequence[int], step: int) -> None:
        if tuple(size) not in self.said:
            self.said.add(tuple(size))
            text = "torch computes images of %d x %d px, OpenVINO multiples of %d px only (see window_size)"
            logger.warning(text, *size, step)

    def _present(self, channels: int) -> tuple[Compute, int]:
        """The network with its present weights, and its step."""
        # a parameter's version counts its changes in place; an ensemble swaps the parameters themselves
        tensors = itertools.chain(self.network.parameters(), self.network.buffers())
        key = tuple((one.data_ptr(), one._version) for one in tensors)
        if key not in self.compiled:
            self.compiled[key] = self._ready(channels)
        self.compiled.move_to_end(key)
        if len(self.compiled) > COMPILED:
            self.compiled.popitem(last=False)
        return self.compiled[key]

    def _ready(self, channels: int) -> tuple[Compute, int]:
        """From the cache, or converted, compared with torch and put there."""
        file = cache_dir() / f"{_digest(self.network, self.precision)}.blob"
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # missing or damaged
            blob, step = _kept(file)
            return _compute(_core().import_model(blob, "CPU", self.settings)), step
        ours, self.network.forward = self.network.forward, self.plain  # type: ignore[method-assign]
        try:
            model = _convert(self.network, channels)
        finally:
            self.network.forward = ours  # type: ignore[method-assign]
        compiled = _core().compile_model(model, "CPU", self.settings)
        compute = _compute(compiled)
        step = self._step(compute, channels)
        _keep(compiled.export_model().getvalue(), step, file)
        return compute, step

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "INFERENCE_PRECISION_HINT": self.precision,
            "PERFORMANCE_HINT": "LATENCY",  # one image at a time, by all threads
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }

    def _step(self, compute: Compute, channels: int) -> int:
        """The first of the STEPS on whose odd multiples ``compute`` agrees with torch.

        Raises:
            RuntimeError: on none of them.
        """
        difference = math.nan
        for step in STEPS:
            noise = torch.Generator().manual_seed(0)
            image = torch.randn((1, channels, 3 * step, 5 * step), generator=noise)
            expected = self.torch(image)
            found = torch.empty(0)
            with contextlib.suppress(RuntimeError):  # parts that do not fit together are not always refused
                found = compute(image)
            if found.shape == expected.shape:
                difference = float((found - expected).abs().max())
                if difference <= TOLERANCE[self.precision] * max(1.0, float(expected.abs().max())):
                    return step
        raise RuntimeError(f"its output differs from torch's (by {difference:.2g})")


def _openvino() -> Any:
    # Its package for telemetry would report every import to its makers; blocked, OpenVINO has a stand-in.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@functools.cache
def _core() -> Any:
    """OpenVINO's core, one for the process.

    Each core gives the thread that makes it a stack of its own for signals and takes it away when it ends; of
    two, the first to end leaves the thread with a stack that is gone, and the next signal (Ctrl-C, the end of
    a child process) ends the process by a segmentation fault.
    """
    return _openvino().Core()


def _convert(network: nn.Module, channels: int) -> Any:
    """OpenVINO's model of the network, for any number of images of any size."""
    example = torch.zeros(1, channels, STEPS[-1], STEPS[-1])
    shape = _openvino().PartialShape([-1, channels, -1, -1])
    with warnings.catch_warnings(), torch.no_grad():
        # of torch.jit's age, and of branches on the size, which the comparison with torch covers
        warnings.simplefilter("ignore")
        return _openvino().convert_model(network, example_input=example, input=shape)


def _compute(compiled: Any) -> Compute:
    request = compiled.create_infer_request()

    def compute(image: Tensor) -> Tensor:
        plain = convert_to_tensor(image, track_meta=False).contiguous()
        return torch.from_numpy(request.infer([plain.numpy()], share_inputs=True)[0])

    return compute


def _digest(network: nn.Module, precision: str) -> str:
    """SHA-256 of OpenVINO's version, processor and precision, the network's structure and its weights."""
    processor = _core().get_property("CPU", "FULL_DEVICE_NAME")
    digest = hashlib.sha256(
        f"{CONVERSION} {_openvino().__version__} {processor} {precision} {network!r}".encode()
    )
    for name, one in network.state_dict().items():
        digest.update(f"{name} {one.dtype} {tuple(one.shape)}".encode())
        digest.update(one.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _keep(blob: bytes, step: int, file: Path) -> None:
    """Put a compiled network into the cache and the oldest out of it; what cannot be written is not kept."""
    content = bytes([step]) + blob
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=file.parent) as folder:
            whole = Path(folder, file.name)
            whole.write_bytes(hashlib.sha256(content).digest() + content)
            os.replace(whole, file)
        for old in sorted(file.parent.glob("*.blob"), key=lambda one: one.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)


def _kept(file: Path) -> tuple[bytes, int]:
    """What `_keep` has put there; ValueError if it is damaged."""
    content = file.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError(f"{file} is damaged")
    with contextlib.suppress(OSError):
        os.utime(file)
    return content[33:], content[32]
