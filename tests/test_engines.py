"""OpenVINO behind a network's forward: torch's results, its checkpoints, and torch wherever it cannot."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from carde_monai import engines
from carde_monai.engines import accelerate, cache_dir
from carde_monai.errors import InputError
from carde_monai.networks import CardeUNet, UNet
from carde_monai.uncertainty import Ensemble

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "BasicUNet": (lambda: BasicUNet(2, 2, 1, features=(4, 4, 8, 8, 16, 4), norm="batch"), 16),
    "UNet of depth 5, instance norm": (lambda: UNet(5, 2, norm="instance"), 32),
    "carde's, two outputs": (lambda: CardeUNet(2, 4, out_channels=2), 16),
}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return cache_dir()


def make(name: str = "BasicUNet", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = NETWORKS[name][0]().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after a training
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """The images that torch computed in full, other than the small ones of the comparison."""
    seen: list[Tensor] = []
    original = engines._Engine.__init__

    def init(self: engines._Engine, *given: Any) -> None:
        original(self, *given)
        plain = self.torch

        def forward(image: Tensor) -> Tensor:
            if len(image) > 1:
                seen.append(image)
            return plain(image)

        self.torch = forward

    monkeypatch.setattr(engines._Engine, "__init__", init)
    yield seen


@torch.no_grad()
def run(network: nn.Module, image: Tensor) -> Tensor:
    return network(image)


@pytest.mark.parametrize("name", NETWORKS)
def test_openvino_gives_what_torch_gives(name: str, calls: list[Tensor]) -> None:
    plain, step = make(name), NETWORKS[name][1]
    names = list(plain.state_dict())
    fast = accelerate(make(name))
    assert list(fast.state_dict()) == names
    for height, width in ((3, 4), (1, 7), (3, 4)):
        image = torch.randn(2, 2, height * step, width * step)
        torch.testing.assert_close(run(fast, image), run(plain, image), rtol=1e-4, atol=1e-4)
    assert calls == []


def test_bfloat16_is_close_and_float32(calls: list[Tensor]) -> None:
    image = torch.randn(2, 2, 32, 48)
    exact, rounded = run(make(), image), run(accelerate(make(), amp=True), image)
    assert rounded.dtype == torch.float32 and calls == []
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.1 * float(exact.abs().max()))


def test_bfloat16_rounds_no_more_than_torch_does() -> None:
    # a trace of autocast has batch norm folded into weights rounded before: twice the spread, worse masks
    weights = torch.load(Path(__file__).parents[1] / "bundle" / "models" / "model.pt", weights_only=True)
    networks = [
        BasicUNet(2, 2, 1, features=(32, 32, 64, 128, 256, 32), norm="batch").eval() for _ in range(3)
    ]
    for network in networks:
        network.load_state_dict(weights)
    image = torch.randn((1, 2, 64, 96), generator=torch.Generator().manual_seed(0))
    exact, ours = run(networks[0], image), run(accelerate(networks[1], amp=True), image)
    torchs = run(accelerate(networks[2], "torch", amp=True), image)
    assert (ours - exact).std() < 1.5 * (torchs - exact).std()


def test_torch_computes_what_openvino_cannot(calls: list[Tensor]) -> None:
    plain, fast = make(), accelerate(make())
    odd = torch.randn(2, 2, 50, 37)  # BasicUNet pads inside
    torch.testing.assert_close(run(fast, odd), run(plain, odd), rtol=0, atol=0)
    image = torch.randn(2, 2, 32, 32)
    assert fast(image).requires_grad  # gradients are wanted
    fast.train()
    plain.train()
    torch.testing.assert_close(run(fast, image), run(plain, image), rtol=0, atol=0)
    assert len(calls) == 3
    fast.eval()
    run(fast, image)
    assert len(calls) == 3


def test_a_size_that_openvino_refuses_is_said_once(
    caplog: pytest.LogCaptureFixture, calls: list[Tensor]
) -> None:
    fast = accelerate(make("UNet of depth 5, instance norm"))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            run(fast, torch.randn(2, 2, 64, 48))
    (line,) = caplog.messages
    assert line.startswith("torch computes images of 64 x 48 px, OpenVINO multiples of 32 px only")
    assert len(calls) == 2


def test_signals_arrive_after_networks_are_gone(empty_cache: Path) -> None:
    """With a core for each, OpenVINO left the process without a stack for signals: any of them killed it."""
    code = """
import gc, os, signal, torch
from carde_monai.engines import accelerate
from carde_monai.networks import UNet
networks = [accelerate(UNet(1, 4).eval()) for _ in range(2)]
with torch.no_grad():
    for network in networks:
        network(torch.zeros(1, 2, 32, 32))
while networks:
    del network, networks[0]
    network = gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("caught"))
os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "caught\n"), done.stderr


def test_changed_weights_are_converted_again() -> None:
    fast, image = accelerate(make()), torch.randn(2, 2, 32, 32)
    run(fast, image)
    for seed in (1, 0):
        fast.load_state_dict(make(seed=seed).state_dict())
        torch.testing.assert_close(run(fast, image), run(make(seed=seed), image), rtol=1e-4, atol=1e-4)


def test_the_members_of_an_ensemble_are_compiled_each(calls: list[Tensor]) -> None:
    states = [make(seed=seed).state_dict() for seed in range(3)]
    image = torch.randn(2, 2, 32, 32)
    fast = run(Ensemble(accelerate(make()), states).eval(), image)
    torch.testing.assert_close(fast, run(Ensemble(make(), states).eval(), image), rtol=1e-4, atol=1e-4)
    assert calls == []


def test_a_network_is_converted_once(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    image = torch.randn(2, 2, 32, 32)
    run(accelerate(make()), image)
    (kept,) = empty_cache.iterdir()
    converted: list[nn.Module] = []
    original = engines._convert
    monkeypatch.setattr(engines, "_convert", lambda *a: converted.append(a[0]) or original(*a))
    expected = run(make(), image)
    torch.testing.assert_close(run(accelerate(make()), image), expected, rtol=1e-4, atol=1e-4)
    assert converted == []
    whole = kept.read_bytes()
    for damage in (b"", whole[:2000], whole[:-1] + bytes([whole[-1] ^ 1]), bytes(len(whole))):
        kept.write_bytes(damage)
        torch.testing.assert_close(run(accelerate(make()), image), expected, rtol=1e-4, atol=1e-4)
    assert len(converted) == 4
    run(accelerate(make(), amp=True), image)
    assert len(converted) == 5 and len(list(empty_cache.iterdir())) == 2, "bfloat16 is compared by itself"


def test_the_cache_keeps_the_newest(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    monkeypatch.setattr(engines, "KEPT", 2)
    for seed in range(3):
        run(accelerate(make(seed=seed)), torch.randn(2, 2, 32, 32))
    assert len(list(empty_cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[Tensor]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    image = torch.randn(2, 2, 32, 32)
    torch.testing.assert_close(run(accelerate(make()), image), run(make(), image), rtol=1e-4, atol=1e-4)
    assert calls == []


def test_without_openvino_torch_computes_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    fast, image = accelerate(make()), torch.randn(2, 2, 32, 32)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            torch.testing.assert_close(run(fast, image), run(make(), image), rtol=0, atol=0)
    (line,) = caplog.messages
    assert line.startswith("torch computes the network, OpenVINO cannot")


def test_a_conversion_that_differs_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, empty_cache: Path
) -> None:
    original = engines._compute
    monkeypatch.setattr(engines, "_compute", lambda *a: lambda image: original(*a)(image) + 0.01)
    image = torch.randn(2, 2, 32, 32)
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(run(accelerate(make()), image), run(make(), image), rtol=0, atol=0)
    assert "differs from torch's (by 0.01)" in caplog.text and not empty_cache.exists()


def test_torch_is_an_engine_and_others_are_not() -> None:
    network = make()
    assert accelerate(network, "torch") is network and "forward" not in vars(network)
    with pytest.raises(InputError, match="--engine tensorrt: is no engine; choose from openvino, torch"):
        accelerate(network, "tensorrt")


def test_nothing_is_reported_to_openvinos_makers() -> None:
    run(accelerate(make()), torch.randn(2, 2, 32, 32))
    assert sys.modules["openvino_telemetry"] is None
