"""What the figures were measured on: processor, memory, GPU, versions, commit, date."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX BF16",
}
PACKAGES = ("torch", "monai", "openvino", "numpy", "SimpleITK", "scikit-image")


def describe() -> dict[str, Any]:
    """Facts of this machine and installation, ready to be written down."""
    import torch

    info = _cpu_info()
    flags = info.get("flags", "").split()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "CPU": info.get("model name") or platform.processor() or platform.machine(),
        "cores": cores,
        "instructions": ", ".join(name for flag, name in FLAGS.items() if flag in flags) or "unknown",
        "memory": _memory(),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.platform(terse=True),
        "Python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def has_amx(machine: dict[str, Any]) -> bool:
    """Whether the processor multiplies matrices in bfloat16."""
    return "AMX BF16" in machine["instructions"]


def _cpu_info() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo; none where there is no such file."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.is_file() else ""
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Short hash of the checkout, with a + if files differ from it."""
    here = Path(__file__).parent
    try:
        words = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
