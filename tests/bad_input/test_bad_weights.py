"""Checkpoints of other networks, damaged ones, and some that would run code."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import BasicUNet
from world import bundle, cli, data

RANDOM = np.random.default_rng(3).integers(0, 256, 50_000, np.uint8).tobytes()


class Evil:
    """Would make a folder ``evil`` when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


def _other() -> dict[str, torch.Tensor]:
    return BasicUNet(2, 2, 1, features=(8, 8, 8, 8, 8, 8), norm="batch").state_dict()


def _bytes(data: bytes) -> Callable[[Path, Path], object]:
    return lambda path, good: path.write_bytes(data)


def _saved(content: Callable[[], object], **options: Any) -> Callable[[Path, Path], object]:
    return lambda path, good: torch.save(content(), path, **options)


def _cut(share: float) -> Callable[[Path, Path], object]:
    def build(path: Path, good: Path) -> None:
        data = good.read_bytes()
        path.write_bytes(data[: int(share * len(data))])

    return build


def _zip(path: Path, good: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Evil()))


# fault, writer of the file beside good weights
FAULTS: list[tuple[str, Callable[[Path, Path], object]]] = [
    ("other network", _saved(_other)),
    ("cut", _cut(0.5)),
    ("cut at the end", _cut(0.99)),
    ("empty", _bytes(b"")),
    ("random", _bytes(RANDOM)),
    ("text", _bytes(b"no weights\n")),
    ("folder", lambda path, good: path.mkdir()),
    ("missing", lambda path, good: None),
    ("pickle of code", _bytes(pickle.dumps(Evil()))),
    ("code in torch's file", _saved(lambda: {"model": Evil(), "state_dict": Evil()})),
    ("code in its old format", _saved(lambda: Evil(), _use_new_zipfile_serialization=False)),
    ("code in a zip file", _zip),
    ("whole network", _saved(lambda: BasicUNet(2, 2, 1, features=(4,) * 6))),
    ("a list", _saved(lambda: [1, 2])),
    ("a number", _saved(lambda: torch.tensor(1.0))),
    ("no tensors", _saved(lambda: {"model": {"a": 1}, "state_dict": {"model.a": 1}})),
    ("not finite", _saved(lambda: {name: one * torch.nan for name, one in _other().items()})),
]


@pytest.mark.parametrize("verb", ["segment", "evaluate", "train", "import-carde"])
@pytest.mark.parametrize(("fault", "build"), FAULTS, ids=[fault for fault, _ in FAULTS])
def test_bad_weights_are_one_line(fault, build, verb, data, bundle, cli, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "bad.pt"
    build(weights, bundle / "models" / "model.pt")
    out = tmp_path / "out"
    words = {
        "segment": [data, out, "--bundle", bundle, "--weights", weights],
        "evaluate": [data, "--bundle", bundle, "--weights", weights, "--output_dir", out],
        "train": [data, "--bundle", bundle, "--weights", weights, "--ckpt_dir", out, "--tracking_uri", None],
        "import-carde": [weights, "--bundle", out],
    }[verb]
    status, lines = cli(verb, *words)
    assert status == 2 and len(lines) == 1
    assert f"{weights}: " in lines[0] and ";" in lines[0]
    assert not (tmp_path / "evil").exists()
    assert not list(out.rglob("*.pt"))
