"""What the figures were measured on: processor, memory, GPU, versions, commit, date."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "monai", "openvino", "numpy", "SimpleITK", "scikit-image")


def describe() -> dict[str, Any]:
    """Facts of this machine and installation, ready to be written down."""
    import torch

    from carde_monai.doctor import processor

    return {
        **processor(),
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
