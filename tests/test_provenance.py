"""Versions, commit and command line of a run."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from carde_monai import provenance


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://me:pass@host:5000/x", "http://host:5000/x"),
        ('{"a": "https://t@h", "b": "c@d"}', '{"a": "https://h", "b": "c@d"}'),
        ("sqlite:////out/mlflow.db", "sqlite:////out/mlflow.db"),
        ("@tracking_uri", "@tracking_uri"),
    ],
)
def test_without_password(text: str, expected: str) -> None:
    assert provenance.without_password(text) == expected


def test_git_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "module.py"
    file.write_text("1")
    assert provenance.git_commit(file) == ""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    assert provenance.git_commit(file) == ""  # in the repository's folder, but not of it: site-packages
    subprocess.run([*git, "add", "module.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    commit = provenance.git_commit(file)
    assert len(commit) == 40
    file.write_text("2")
    assert provenance.git_commit(file) == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit(file) == ""


@pytest.mark.parametrize(
    ("name", "record", "told"),
    [
        ("calibration.json", {"section": "validation"}, "1.87, fitted on validation micrographs"),
        ("model.json", {"source": "carde.ckpt"}, "1.87, imported with carde.ckpt"),
        ("model.json", {"checkpoint_sha256": "another"}, "not known to be calibrated"),
        ("other.json", {}, "not known to be calibrated"),
    ],
)
def test_model_facts(tmp_path: Path, name: str, record: dict, told: str) -> None:
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    content = {"checkpoint_sha256": digest, "total_temperature": 1.8677} | record
    (tmp_path / name).write_text(json.dumps(content))
    facts = provenance.model_facts(weights)
    assert facts == {"weights": f"{weights} (SHA-256 {digest[:16]}…)", "temperature": told}
    assert provenance.model_facts(tmp_path / "none.pt") == {}
