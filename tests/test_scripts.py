"""The scripts' environment, with an installation that only notes what it is asked for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("scripts/environment", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >> "$(dirname "$0")/asked"\n')
    python.chmod(0o755)
    return tmp_path


def source(root: Path, *own: str, extras: str = "") -> list[str]:
    """Run a script with arguments of its ``own`` that sources the environment; what was installed by then."""
    script = root / "scripts" / "any"
    script.write_text(f'set -euo pipefail\n. "$(dirname "$0")/environment" {extras}\necho "$venv" "$@"\n')
    done = subprocess.run(["bash", str(script), *own], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(root / ".venv"), *own]
    asked = root / ".venv" / "bin" / "asked"
    return [line.rpartition("--editable ")[2] for line in asked.read_text().splitlines()]


@pytest.mark.parametrize("own", [(), ("folder",), ("--data", "x", "--quick")])
def test_arguments_of_a_script_are_no_extras(root: Path, own: tuple[str, ...]) -> None:
    assert source(root, *own) == [str(root)]


def test_an_environment_is_installed_once_for_each_kind(root: Path) -> None:
    for _ in range(2):
        assert source(root, extras='"[test]"')[-1] == f"{root}[test]"
    assert source(root, "-k", "sem") == [f"{root}[test]", str(root)]
    (root / "constraints.txt").write_text("torch==3\n")
    assert len(source(root)) == 3
