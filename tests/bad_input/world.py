"""A small untrained bundle, and the command line as the corpus calls it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from drawings import MASK, picture
from faults import grey, tiff
from monai.networks.nets import BasicUNet

from carde_monai import __main__ as command_line
from carde_monai import bundles

Call = Callable[..., tuple[int, list[str]]]
FEATURES = [4, 4, 8, 8, 16, 4]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged bundle with a network of a few thousand weights that nobody has trained."""
    root = bundles.working_bundle(tmp_path_factory.mktemp("bad") / "bundle")
    for name in ("train", "inference"):
        path = root / "configs" / f"{name}.json"
        config = json.loads(path.read_text())
        config["network_def"]["features"] = FEATURES
        config["window_size"] = [64, 64]
        path.write_text(json.dumps(config))
    torch.manual_seed(0)
    network = BasicUNet(2, 2, 1, features=FEATURES, norm="batch").eval()
    with torch.no_grad():  # a tenth of a frame is carbide
        network.final_conv.bias -= torch.quantile(network(torch.randn(1, 2, 96, 96)), 0.9)
    torch.save({"model": network.state_dict()}, root / "models" / "model.pt")
    return root


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five micrographs: three for training, one for validation, one for the test."""
    source = tmp_path_factory.mktemp("source")
    for odd in range(1, 10, 2):
        for number in (odd, odd + 1):
            tiff(grey(number))(source / f"a_{number:03}.tif")
        picture(MASK)(source / f"a_{odd:03}_label.png")
    folder = tmp_path_factory.mktemp("data") / "set"
    assert call("prepare", source, folder, "--split", "3,1,1") == (0, [])
    return folder


class Lines(logging.Handler):
    """What the program logs, as its lines on a terminal."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def call(*words: object) -> tuple[int, list[str]]:
    """Exit status of ``carde-monai`` and what it says on stderr, warnings included, without progress bars."""
    output, logged = io.StringIO(), Lines()
    logger = logging.getLogger("carde_monai")
    logger.addHandler(logged)
    status: Any = 0
    try:
        with (
            contextlib.redirect_stderr(output),
            contextlib.redirect_stdout(io.StringIO()),
            mock.patch.object(sys, "argv", ["carde-monai", *map(str, words)]),
        ):
            command_line.main()
    except SystemExit as end:
        status = end.code
    finally:
        logger.removeHandler(logged)
    lines = [line.rpartition("\r")[2].replace("\x1b[A", "").strip() for line in output.getvalue().split("\n")]
    return status, logged.lines + [line for line in lines if line and "%|" not in line]


@pytest.fixture(scope="session")
def cli() -> Call:
    """`call`, as a fixture."""
    return call
