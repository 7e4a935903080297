"""What `carde-monai doctor` tells of an installation whose state is known."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from carde_monai import doctor
from carde_monai.bundles import packaged_bundle
from carde_monai.errors import InputError


def test_versions_devices_and_calibrated_weights_are_told() -> None:
    done = subprocess.run([sys.executable, "-m", "carde_monai", "doctor"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    told = {line[:18].strip(): line[18:].strip() for line in done.stdout.splitlines()}
    assert f"torch {version('torch')}, " in told["packages"]
    assert told["engine on the CPU"] == f"OpenVINO {version('openvino')}"
    assert told["bfloat16"].startswith(("yes", "no: "))
    assert told["bundle"] == str(packaged_bundle())
    assert "fitted on validation micrographs" in told["temperature"]


def test_weights_that_nobody_calibrated_are_told(tmp_path: Path) -> None:
    shutil.copytree(packaged_bundle() / "configs", tmp_path / "configs")
    facts, _ = doctor.examine(tmp_path)
    assert "does not exist" in facts["weights"] and "temperature" not in facts
    (tmp_path / "models").mkdir()
    torch.save({}, tmp_path / "models" / "model.pt")
    assert doctor.examine(tmp_path)[0]["temperature"] == "not known to be calibrated"


def test_what_is_missing_or_too_old_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["monai>=1.6", "no-such-package>=2", 'mlflow>=3; extra == "more"', "numpy>=3000"]
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    monkeypatch.setattr(doctor, "_extras", lambda: ["more", "none"])
    facts, failures = doctor.examine()
    assert [(one.name, one.reason) for one in failures] == [
        ("no-such-package", "nothing is installed; pip install 'no-such-package>=2'"),
        ("numpy", f"{version('numpy')} is installed; pip install 'numpy>=3000'"),
    ]
    assert "no-such-package missing" in facts["packages"]
    assert facts["extra more"] == f"mlflow {version('mlflow')}"
    assert facts["extra none"] == "not installed (pip install 'carde-monai[none]')"


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such bundle"):
        doctor.examine(tmp_path)
