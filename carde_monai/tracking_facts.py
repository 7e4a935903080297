"""What is worth recording about a run: the bundle's config, the network, the device, the data set."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, MAX_PARAM_VAL_LENGTH
from monai.bundle import ConfigParser

from carde_monai.bundles import packaged_bundle
from carde_monai.provenance import without_password

# ids by which nobody compares runs: where things lie, the search around a run, how objects are wired
PLACES = {"bundle_root", "dataset_dir", "ckpt_dir", "output_dir", "state_file", "run_file", "tracking_uri"}
PLACES |= {"experiment_name", "run_name", "run_tags", "run_artifacts", "quiet", "resume", "register"}
PLACES |= {"imports", "output_layer"}
SEARCH = {"base", "search_space", "fixed", "sampler", "pruner", "retries"}
WIRING = {"keys", "handlers", "_disabled_"}
EFFORT = {"max_epochs", "epoch_length", "val_interval", "seed"}  # not what a run is about
CLASS = "network_def::_target_"  # network_facts tell it
NAME = 60  # characters of a run's name


def running_config() -> dict[str, Any]:
    """The config of the bundle that is being built, merged and with overrides; {} outside of a bundle.

    MONAI gives the objects of a config no way to their parser, so it is looked for on the call stack: call
    this in a constructor. References (``@id``) stay as written; passwords in addresses are removed.
    """
    parser = running_parser()
    if parser is None:
        return {}
    config = {id: value for id, value in parser.get().items() if id != ConfigParser.meta_key}
    return json.loads(without_password(json.dumps(config, default=str)))


def running_parser() -> ConfigParser | None:
    """The parser of the bundle that is being built; None outside of a bundle."""
    frame = inspect.currentframe()
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return parser
        frame = frame.f_back
    return None


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """``{"train::trainer::max_epochs": "100", ...}``, ids as on the command line, within MLflow's limits.

    A list without mappings in it stays one value; characters that MLflow refuses in a key become ``_``.
    """
    return {mlflow_key(id): str(value)[:MAX_PARAM_VAL_LENGTH] for id, value in _leaves(config)}


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(i): item for i, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}::")
        else:
            yield f"{prefix}{name}", value


def settings(config: Mapping[str, Any], resolved: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The leaves of a config that are values, as `flatten_config` writes them.

    An expression counts with the value that it has in ``resolved``, by its id, if that is one number or text.
    Left out are references, for what they refer to is told itself, and what `PLACES`, `SEARCH` and `WIRING`
    name.
    """
    found: dict[str, str] = {}
    for id, value in _leaves(config):
        parts = id.split("::")
        if parts[0] in PLACES | SEARCH or WIRING & set(parts) or isinstance(value, Mapping):
            continue
        if _refers(value):
            value = (resolved or {}).get(id)
            if not isinstance(value, bool | int | float | str):
                continue
        found[mlflow_key(id)] = without_password(str(value))[:MAX_PARAM_VAL_LENGTH]
    return found


def _refers(value: Any) -> bool:
    """Whether it is an expression or a reference, or a list with one."""
    parts = value if isinstance(value, list) else [value]
    return any(isinstance(part, str) and part.startswith(("@", "$")) for part in parts)


def changed(config: Mapping[str, Any]) -> dict[str, str]:
    """The `settings` that the packaged ``train.json`` has not, or not so; an overlay's own ids come first.

    Of any bundle: what its owner has changed in its configs counts, too. {} if the packaged one is damaged.
    """
    try:
        file = packaged_bundle() / "configs" / "train.json"
        before = settings(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):  # no reason not to train
        return {}
    now = {id: value for id, value in settings(config).items() if id != CLASS}
    told = {id: value for id, value in now.items() if before.get(id) != value}
    own = {id: value for id, value in told.items() if id not in before and "::" not in id}
    return own | told


def compared(
    config: Mapping[str, Any], resolved: Mapping[str, Any], changes: Mapping[str, str]
) -> dict[str, str]:
    """The `settings` to compare runs by: the config's own, the network's, and what else was `changed`.

    MLflow writes all parameters of a run into tables and beside pictures; with every one of a config's three
    hundred leaves, which ``config.json`` tells, nothing else is to be seen.
    """
    found = settings(config, resolved)
    return {
        id: value
        for id, value in found.items()
        if id != CLASS and ("::" not in id or id in changes or id.startswith("network_def::"))
    }


def short_name(changes: Mapping[str, str], end: str) -> str:
    """A run's name: as many ``setting=value`` of what was `changed` as fit before ``end``."""
    told: list[str] = []
    for id, value in changes.items():
        one = f"{id.rpartition('::')[2]}={value}"
        if id not in EFFORT and len(" ".join((*told, one, end))) <= NAME:
            told.append(one)
    return " ".join(filter(None, (*told, end)))


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


def description(facts: Mapping[str, str], data: str, changes: Mapping[str, str] | None = None) -> str:
    """What MLflow's page of a run says at the top, in Markdown: network, data set, changes, command."""
    parameters = int(facts.get("network/parameters", 0))
    network = f"{facts.get('network/class')}, {parameters:,} parameters, {facts.get('run/device', '')}"
    sizes = {key.removeprefix("data/"): value for key, value in facts.items() if key.startswith("data/")}
    sections = ", ".join(f"{value} {key}" for key, value in sizes.items() if key != "digest" and value != "0")
    told = {
        "Network": network if parameters else "",
        "Data": f"{data}: {sections}" if sections else "",
        "Settings": ", ".join(f"`{id}` {value}" for id, value in (changes or {}).items()),
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
