"""Where a result comes from: versions, commit, command line."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from carde_monai import __version__

PACKAGES = (
    "carde_monai",
    "torch",
    "openvino",
    "monai",
    "pytorch-ignite",
    "mlflow",
    "scikit-image",
    "SimpleITK",
)


def environment() -> dict[str, str]:
    """Versions of packages, git commit of this package ("" if it is in no repository), command line."""
    facts = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            facts[f"version/{name}"] = version(name)
    facts["run/git_commit"] = git_commit(Path(__file__))
    facts["run/command"] = without_password(shlex.join(sys.orig_argv))
    return facts


def git_commit(file: Path) -> str:
    """Commit of the repository that tracks ``file``, ``-dirty`` with local changes; "" if none does."""
    git = ["git", "-C", str(file.parent)]
    tracked = [*git, "ls-files", "--error-unmatch", file.name]  # fails for site-packages inside a repository
    describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        subprocess.run(tracked, capture_output=True, check=True, timeout=5)
        return subprocess.run(describe, capture_output=True, check=True, timeout=5, text=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def program(*packages: str) -> dict[str, str]:
    """What makes a result besides input and settings: version and code of this package, other versions."""
    found = {"carde_monai": __version__, "code": code_digest()}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@functools.cache
def code_digest() -> str:
    """SHA-256 of this package's modules: it knows local changes, which a commit does not."""
    package, digest = Path(__file__).parent, hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\n{file_digest(file)}\n".encode())
    return digest.hexdigest()


def without_password(text: str) -> str:
    """The text without the ``user:password@`` of the addresses in it."""
    return re.sub(r"(?<=://)[^/@\s\"']+@", "", text)


def model_facts(weights: str | Path) -> dict[str, str]:
    """The file of the weights with the start of its SHA-256, and the temperature that is folded into it.

    Of an ensemble (`weight_files`) those of each member; {} where there is no such file.
    """
    members = [_facts_of(file) for file in weight_files(weights) if file.is_file()]
    return {key: "; ".join(one[key] for one in members) for key in (members or [{}])[0]}


def weight_files(weights: str | Path) -> list[Path]:
    """The files that ``a.pt,b.pt`` names; a file that exists under the whole name is one."""
    whole = Path(weights)
    return [whole] if whole.is_file() else [Path(one.strip()) for one in str(weights).split(",")]


def _facts_of(weights: Path) -> dict[str, str]:
    digest = file_digest(weights)
    record = temperature_record(weights, digest)
    temperature = calibration_origin(record)
    if record:
        temperature = f"{record['total_temperature']:.3g}, {temperature}"
    return {"weights": f"{weights} (SHA-256 {digest[:16]}…)", "temperature": temperature}


def calibration_origin(record: Mapping[str, Any]) -> str:
    """Where the temperature of a `temperature_record` comes from, in words; of {} that there is none."""
    if not record:
        return "not known to be calibrated"
    section = record.get("section")
    return f"fitted on {section} micrographs" if section else f"imported with {record.get('source')}"


def temperature_record(weights: Path, digest: str) -> dict[str, Any]:
    """What is recorded beside the weights of the temperature in this very file; {} if nothing.

    ``digest`` is their SHA-256. ``calibration.json`` is written by the calibration, ``<stem>.json`` by the
    import of weights.
    """
    for name in ("calibration.json", f"{weights.stem}.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads((weights.parent / name).read_text(encoding="utf-8"))
            if record["checkpoint_sha256"] == digest and float(record["total_temperature"]):
                return record
    return {}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
