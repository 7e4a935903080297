"""Where a result comes from: versions, commit, command line."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("carde_monai", "torch", "monai", "pytorch-ignite", "mlflow", "scikit-image", "SimpleITK")


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


def without_password(text: str) -> str:
    """The text without the ``user:password@`` of the addresses in it."""
    return re.sub(r"(?<=://)[^/@\s\"']+@", "", text)
