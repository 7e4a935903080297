"""What this installation can do here: versions, devices, engines, and the weights of a bundle."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from carde_monai import __version__
from carde_monai.errors import Failure, InputError
from carde_monai.provenance import git_commit, model_facts

FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX BF16",
}


def examine(bundle: str | Path | None = None) -> tuple[dict[str, str], list[Failure]]:
    """Facts by name, ready to be printed, and what is wrong with the installation.

    ``bundle`` is the folder of a bundle; the one that comes with the package if none is given.

    Raises:
        InputError: there is no bundle at ``bundle``.
    """
    failures = list(_unmet())
    commit = git_commit(Path(__file__))
    facts = {
        "carde-monai": __version__ + (f", commit {commit}" if commit else ""),
        "Python": platform.python_version(),
        "system": platform.platform(terse=True),
        "packages": ", ".join(_installed()),
        **{f"extra {name}": _extra(name) for name in _extras()},
        **processor(),
    }
    if not all(map(find_spec, ("torch", "monai"))):
        return facts, failures  # there is no more to tell
    facts |= _devices()
    if address := os.environ.get("MLFLOW_TRACKING_URI"):
        facts["MLflow"] = f"{address} (MLFLOW_TRACKING_URI), whatever --tracking_uri says"
    return facts | _weights(bundle), failures


def _weights(bundle: str | Path | None) -> dict[str, str]:
    from carde_monai.bundles import packaged_bundle

    root = packaged_bundle() if bundle is None else Path(bundle)
    if not (root / "configs" / "metadata.json").is_file():
        raise InputError(root, "there is no such bundle", "--bundle must name the folder of a bundle")
    weights = root / "models" / "model.pt"
    missing = {"weights": f"{weights} does not exist; carde-monai train makes it"}
    return {"bundle": str(root), **(model_facts(weights) or missing)}


def _required(extra: str = "") -> list[Requirement]:
    """What this package requires, or, with ``extra``, what the extra adds; nothing if it is not installed."""
    try:
        found = [Requirement(text) for text in requires("carde-monai") or ()]
    except PackageNotFoundError:
        return []
    if not extra:
        return [one for one in found if one.marker is None]
    extras = [one for one in found if one.marker is not None]
    return [one for one in extras if one.marker.evaluate({"extra": extra})]  # type: ignore[union-attr]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _installed() -> Iterator[str]:
    for one in _required():
        yield f"{one.name} {_version(one.name) or 'missing'}"


def _unmet() -> Iterator[Failure]:
    for one in _required():
        found = _version(one.name)
        if not one.specifier.contains(found or "0", prereleases=True):
            remedy = f"pip install '{one.name}{one.specifier}'"
            yield Failure(one.name, f"{found or 'nothing'} is installed; {remedy}")


def _extras() -> list[str]:
    try:
        return [name for name in metadata("carde-monai").get_all("Provides-Extra") or () if name != "test"]
    except PackageNotFoundError:
        return []


def _extra(name: str) -> str:
    needed = _required(name)
    missing = [one.name for one in needed if not _version(one.name)]
    if missing or not needed:
        return f"not installed (pip install 'carde-monai[{name}]')"
    return ", ".join(f"{one.name} {_version(one.name)}" for one in needed)


def processor() -> dict[str, str]:
    """Name of the CPU, how many cores this process may use, and the instructions that decide about speed."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.is_file() else ""
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    info = {name.strip(): value.strip() for name, _, value in lines}
    flags = info.get("flags", "").split()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "CPU": info.get("model name") or platform.processor() or platform.machine(),
        "cores": str(cores),
        "instructions": ", ".join(FLAGS[flag] for flag in FLAGS if flag in flags) or "unknown",
    }


def _devices() -> dict[str, str]:
    import torch

    from carde_monai.engines import bf16_is_fast, cache_dir

    gpus = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        gpus.append(f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")
    device = "cuda" if gpus else "cpu"
    cached = list(cache_dir().glob("*.blob"))
    size = sum(path.stat().st_size for path in cached) / 1e6
    openvino = _version("openvino")
    engine = f"OpenVINO {openvino}" if openvino else "torch (OpenVINO, about twice as fast, is not installed)"
    return {
        "GPU": "; ".join(gpus) or "none that torch can use",
        "computes on": f"{device}, in {'bfloat16' if bf16_is_fast(device) else 'float32'}",
        "bfloat16": _bf16(device),
        "engine on the CPU": engine,
        "converted networks": f"{len(cached)} ({size:.0f} MB) in {cache_dir()}",
        "threads": str(torch.get_num_threads()),
    }


def _bf16(device: str) -> str:
    from carde_monai.engines import bf16_is_fast

    if bf16_is_fast(device):
        return "yes"
    return "no: " + ("the GPU is older than Ampere" if device == "cuda" else "the processor has no AMX")
