"""Trainings start from the shipped weights, so that few annotated micrographs suffice."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from monai.networks.utils import copy_model_state
from torch import nn

from carde_monai.bundles import packaged_bundle
from carde_monai.errors import InputError
from carde_monai.provenance import file_digest

DIGEST = "shipped.sha256"  # beside the shipped weights, as `sha256sum -c` reads it

logger = logging.getLogger("carde_monai")


def shipped_weights() -> Path:
    """The file of the weights that came with this installation."""
    return packaged_bundle() / "models" / "model.pt"


def shipped_digest(path: Path) -> str:
    """SHA-256 of the shipped weights at ``path``.

    Raises:
        InputError: there are none, or others lie in their place.
    """
    try:
        expected = path.with_name(DIGEST).read_text(encoding="ascii").split()[0]
        digest = file_digest(path)
    except FileNotFoundError as error:
        raise InputError(error.filename, "there is no such file", "check the installation") from error
    if digest != expected:
        raise InputError(path, "is not what was shipped, but of another training", "restore it")
    return digest


def start_from_shipped(network: nn.Module, output_layer: str, path: str | Path | None = None) -> bool:
    """Load the weights that came with this installation into ``network``; whether that could be done.

    Where only the output layer differs, as with several classes, it keeps what it has, and all others are
    loaded. A network of other layers, and one that finds other weights in the place of the shipped ones,
    stays as it is: weights that somebody trained there may have seen what is held back now.

    Args:
        network: the one to train.
        output_layer: name of its last layer.
        path: of the shipped weights; of the packaged bundle if not given.
    """
    reason = _load(network, output_layer, Path(path or shipped_weights()))
    if reason:
        logger.info("training starts from random weights: %s", reason)
    else:
        logger.info("training starts from the shipped weights (--from_scratch for random ones)")
    return not reason


def _load(network: nn.Module, output_layer: str, path: Path) -> str:
    """Load, or say why that cannot be."""
    try:
        shipped_digest(path)
    except InputError as error:
        return str(error)
    shipped = torch.load(path, map_location="cpu", weights_only=True)
    state, _, missing = copy_model_state(network, shipped, inplace=False)
    if any(not name.startswith(f"{output_layer}.") for name in missing):
        return "the network differs from the shipped one"
    network.load_state_dict(state)
    return ""
