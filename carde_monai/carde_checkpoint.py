"""Import of the weights that carde's training left, a Lightning checkpoint, as weights of this bundle."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carde_monai.bundles import working_bundle
from carde_monai.calibration import fold_temperature
from carde_monai.carde_unet import CardeUNet
from carde_monai.errors import InputError
from carde_monai.locking import claimed
from carde_monai.provenance import file_digest
from carde_monai.replacing import replace_file, replace_text

logger = logging.getLogger("carde_monai")

TEMPERATURE = 1.8677  # published with the weights of one output; a mean-variance network has none
OUTPUT_LAYER = "final.0"
PREFIX = "model."  # of the network in carde's LightningModule
REMEDY = "give a .ckpt that carde's training wrote"


def import_carde(checkpoint: str | Path, bundle: str | Path, temperature: float | None = None) -> Path:
    """Write carde's network of a Lightning checkpoint to ``BUNDLE/models/carde.pt``, calibrated.

    The temperature T, 1.8677 if not given, is folded into the last layer. Of a mean-variance network (two
    outputs: logit and sigma) only the logit is divided, as `calibration.fold_temperature` says; such a
    network is published without temperature: its default is 1.
    ``carde.json`` beside it records source, size and temperature. A bundle that does not exist is made, as
    training makes one. Returns the path of the weights.

    Raises:
        InputError: the checkpoint cannot be read, holds program code (which is not run), other objects than
            tensors and plain Python values, or another network; the temperature is not positive; another run
            writes weights there.
    """
    checkpoint = Path(checkpoint)
    network = CardeUNet.from_state_dict(_network_weights(checkpoint), checkpoint)
    state = network.state_dict()
    outputs = len(state[f"{OUTPUT_LAYER}.weight"])
    if temperature is None:
        temperature = TEMPERATURE if outputs == 1 else 1.0
    elif isinstance(temperature, bool | str) or not 0 < temperature < math.inf:
        raise InputError(f"--temperature {temperature}", "is no positive number", f"carde's is {TEMPERATURE}")
    target = working_bundle(bundle) / "models" / "carde.pt"
    folded = {"model": fold_temperature(state, temperature, OUTPUT_LAYER)}
    record = {
        "source": checkpoint.name,
        "source_sha256": file_digest(checkpoint),
        "checkpoint": target.name,
        "checkpoint_sha256": "",
        "levels": network.levels,
        "features": network.features,
        "outputs": outputs,
        "layer": OUTPUT_LAYER,
        "temperature": float(temperature),
        "total_temperature": float(temperature),
    }
    with claimed(target.parent):
        replace_file(target, lambda path: torch.save(folded, path))
        record["checkpoint_sha256"] = file_digest(target)
        replace_text(target.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    logger.info("%s: %s", target, _described(network, outputs, temperature))
    return target


def _described(network: CardeUNet, outputs: int, temperature: float) -> str:
    kind = (
        "logit" if outputs == 1 else "logit and sigma (--overlay carde_unet,mean_variance --sigma_link abs)"
    )
    return f"{network.levels} levels, {network.features} features, {kind}, temperature {temperature:g}"


def _network_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The network's tensors by its own names, float32; what else the checkpoint holds is left out."""
    content = _load(checkpoint)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise InputError(checkpoint, "holds no weights", REMEDY)
    found = {
        name.removeprefix(PREFIX): one.detach().float() if one.is_floating_point() else one.detach()
        for name, one in state.items()
        if isinstance(name, str) and name.startswith(PREFIX) and isinstance(one, Tensor)
    }
    if not found:
        raise InputError(checkpoint, f"holds no weights whose names begin with {PREFIX}", REMEDY)
    return found


def _load(checkpoint: Path) -> Any:
    try:
        # weights_only lets pass tensors, None, numbers, text, bytes, list, tuple, set, dict, OrderedDict and
        # Counter, which is all that Lightning itself writes; numpy numbers, paths and Namespaces it refuses
        return torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(checkpoint, "there is no such file", REMEDY) from None
    except IsADirectoryError:
        raise InputError(checkpoint, "is a folder", REMEDY) from None
    except Exception as error:  # on bytes that are no checkpoint torch's reader fails in many ways
        if isinstance(error, OSError) and error.filename:  # what the system says of the file
            raise
        objects = _program_objects(checkpoint)
    if objects:
        remedy = "it is not loaded; ask for a file of the state_dict alone"
        raise InputError(checkpoint, f"holds program objects besides weights ({objects})", remedy)
    wrong = "is no checkpoint, is cut off, or holds program code, which is not run"
    raise InputError(checkpoint, wrong, REMEDY)


def _program_objects(checkpoint: Path) -> str:
    """Names of the classes and functions that the file asks for; "" where they cannot be listed."""
    try:
        return ", ".join(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(checkpoint))[:4])
    except Exception:  # no zip file, or a broken one: there is another message for that
        return ""
