"""What is worth recording about a run: the bundle's config, the network, the device, the data set."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, MAX_PARAM_VAL_LENGTH
from monai.bundle import ConfigParser

from carde_monai.provenance import without_password


def running_config() -> dict[str, Any]:
    """The config of the bundle that is being built, merged and with overrides; {} outside of a bundle.

    MONAI gives the objects of a config no way to their parser, so it is looked for on the call stack: call
    this in a constructor. References (``@id``) stay as written; passwords in addresses are removed.
    """
    frame = inspect.currentframe()
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            config = {id: value for id, value in parser.get().items() if id != ConfigParser.meta_key}
            return json.loads(without_password(json.dumps(config, default=str)))
        frame = frame.f_back
    return {}


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """``{"train::trainer::max_epochs": "100", ...}``, ids as on the command line, within MLflow's limits.

    A list without mappings in it stays one value; characters that MLflow refuses in a key become ``_``.
    """
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(i): item for i, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat |= flatten_config(value, f"{prefix}{name}::")
        else:
            flat[mlflow_key(f"{prefix}{name}")] = str(value)[:MAX_PARAM_VAL_LENGTH]
    return flat


def mlflow_key(name: str) -> str:
    """A name of a parameter, metric or artifact that MLflow takes: others' characters ``_``, no ``..``.

    MLflow would refuse the whole batch for one name, which may come from a file's.
    """
    parts = re.sub(r"[^\w./: -]", "_", name).split("/")
    return "/".join("_" if part.strip(".") == "" else part for part in parts)[:MAX_ENTITY_KEY_LENGTH]


def network_facts(network: torch.nn.Module | None, device: torch.device | None) -> dict[str, str]:
    """Class and number of parameters of the network; the device with its name."""
    facts = {}
    if network is not None:
        facts["network/class"] = type(network).__name__
        facts["network/parameters"] = str(sum(p.numel() for p in network.parameters()))
    if device is not None:
        name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
        facts["run/device"] = f"{device}{name}"
    return facts


def description(facts: Mapping[str, str], data: str) -> str:
    """What MLflow's page of a run says at the top, in Markdown: network, data set, command."""
    parameters = int(facts.get("network/parameters", 0))
    network = f"{facts.get('network/class')}, {parameters:,} parameters, {facts.get('run/device', '')}"
    sizes = {key.removeprefix("data/"): value for key, value in facts.items() if key.startswith("data/")}
    sections = ", ".join(f"{value} {key}" for key, value in sizes.items() if key != "digest" and value != "0")
    told = {
        "Network": network if parameters else "",
        "Data": f"{data}: {sections}" if sections else "",
        "Command": f"`{facts['run/command']}`" if facts.get("run/command") else "",
    }
    text = "\n\n".join(f"**{key}** {one}" for key, one in told.items() if one)
    return text[:MAX_PARAM_VAL_LENGTH]  # a tag takes more


def dataset_facts(datalist: Path) -> dict[str, str]:
    """Sizes of the splits and a digest (16 hexadecimal digits) of a prepared data set; {} if unreadable.

    The digest covers the lists and the content of all files named in them, wherever the set lies.
    """
    digest = hashlib.sha256()
    try:
        lists = {
            k: v for k, v in json.loads(datalist.read_text(encoding="utf-8")).items() if isinstance(v, list)
        }
        digest.update(json.dumps(lists, sort_keys=True).encode())
        items = [item for listed in lists.values() for item in listed]
        for name in sorted({item[key] for item in items for key in ("image", "label") if key in item}):
            digest.update(content_mark(datalist.parent / name))
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return {f"data/{k}": str(len(v)) for k, v in lists.items()} | {"data/digest": digest.hexdigest()[:16]}


def content_mark(path: Path) -> bytes:
    """Tells the content of a file: the end of a gzip file (CRC-32 and length, RFC 1952), else its SHA-256."""
    with path.open("rb") as file:
        if path.suffix != ".gz":
            return hashlib.file_digest(file, "sha256").digest()
        file.seek(-8, os.SEEK_END)
        return file.read()
