"""Inference by two processes (gloo): what one process gives, nothing twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY

from carde_monai import bundles, errors
from carde_monai.errors import Failure

CONFIGS = REPOSITORY / "bundle" / "configs"
ONE_FOR_BOTH = ("_mask.png", "_probability.tif", "_labels.tif", "_overlay.png", "_confidence.png")


def two_processes(configs: list[str], *program: str, **settings) -> subprocess.CompletedProcess[str]:
    """``torchrun --nproc_per_node=2`` of ``program``, else of ``monai.bundle run``, as in a SLURM job."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += program or ["-m", "monai.bundle"]
    command += ["run", "--config_file", str([str(CONFIGS / f"{name}.json") for name in configs])]
    for key, value in settings.items():
        command += [f"--{key}", str(value)]
    # srun starts one torchrun a machine: SLURM's local number is 0 for all that it starts
    slurm = {"SLURM_JOB_ID": "1", "SLURM_LOCALID": "0"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | slurm)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def listed(folder: Path) -> list[tuple[str, str]]:
    """The lines of failures.csv, wherever the folder lies and whatever its scratch folders were called."""
    table = pd.read_csv(folder / "failures.csv")
    reasons = [re.sub(rf"{folder}/\.\w+", "OUT", reason) for reason in table["reason"]]
    return sorted(zip(table["name"], reasons, strict=True))


@pytest.fixture
def folder(raw: Path, tmp_path: Path) -> Path:
    """Seven good micrographs and a bad one."""
    folder = Path(shutil.copytree(raw, tmp_path / "raw"))
    for number in (901, 902):
        (folder / f"broken_{number}.tif").write_bytes(b"II*\0 and no more")
    return folder


def test_two_processes_segment_as_one_does(trained, folder, tmp_path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for out in (one, two):  # neither process can write its micrograph's mask
        for name in ("jfl_001", "jfl_003"):
            (out / f"{name}_mask.png").mkdir(parents=True)
    # what is left of a run before goes, but not what a faster process has written by then
    pd.DataFrame({"micrograph": ["old_001", "jfl_005"]}).to_csv(two / "micrographs.csv")
    (two / "old_001_labels.tif").touch()
    configs = ["inference", "sem", "segment"]
    with pytest.raises(SystemExit) as end:
        bundles.run(trained, configs, {"dataset_dir": str(folder), "output_dir": str(one)}, training=False)
    assert end.value.code == errors.SOME_FAILED
    settings = {"bundle_root": trained, "dataset_dir": folder, "output_dir": two}
    done = two_processes([*configs, "sharded"], **settings)
    # torchrun ends with 1, whatever the status of its processes, and may be faster than one that ends
    statuses = set(re.findall(r"exitcode +: (\S+)", done.stderr))
    assert done.returncode == 1 and {"3"} <= statuses <= {"3", "-15"}, done.stderr
    assert listed(one) == listed(two)
    assert [name for name, _ in listed(two)] == ["broken_901", "jfl_001", "jfl_003"]
    assert len(re.findall(r"^failed: ", done.stderr, re.MULTILINE)) == 3
    assert names(one) == names(two)
    for name in names(one):
        if name.endswith(ONE_FOR_BOTH) or name in ("particles.csv", "micrographs.csv", "summary.csv"):
            assert (one / name).read_bytes() == (two / name).read_bytes(), name
    first, second = (json.loads((out / "summary.json").read_text()) for out in (one, two))
    assert first["samples"] == second["samples"] and first["warnings"] == second["warnings"]
    reports = [(out / "report.html").read_text(encoding="utf-8") for out in (one, two)]
    for report in reports:
        assert "is damaged" in report and report.count("_mask.png: Is a directory") == 2
    assert len(reports[0]) == pytest.approx(len(reports[1]), abs=2000), "the same pictures and tables"


@pytest.mark.slow
def test_a_process_without_micrographs_waits_for_the_other(trained, raw, tmp_path) -> None:
    lone = tmp_path / "raw"
    lone.mkdir()
    for number in (1, 2):
        shutil.copy(raw / f"jfl_{number:03}.tif", lone)
    settings = {"bundle_root": trained, "dataset_dir": lone, "output_dir": tmp_path / "out"}
    done = two_processes(["inference", "sem", "segment", "sharded"], **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("report: ") == 1, "one process tells"
    assert list(pd.read_csv(tmp_path / "out" / "micrographs.csv")["micrograph"]) == ["jfl_001"]
    assert (tmp_path / "out" / "report.html").is_file()
    assert not (tmp_path / "out" / "failures.csv").exists()


@pytest.mark.slow
def test_prepared_data_needs_monai_alone(trained, dataset, tmp_path) -> None:
    blocked = tmp_path / "blocked.py"
    blocked.write_text(
        "import sys; sys.modules['carde_monai'] = None\nimport runpy\n"
        "runpy.run_module('monai.bundle', run_name='__main__', alter_sys=True)\n"
    )
    some, out = tmp_path / "data", tmp_path / "out"
    (some / "images").mkdir(parents=True)
    shutil.copy(min((dataset / "images").glob("*.nii.gz")), some / "images")
    settings = {"bundle_root": trained, "dataset_dir": some, "output_dir": out}
    done = two_processes(["inference", "sharded"], str(blocked), **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = tmp_path / "alone"
    bundles.run(trained, ["inference"], {"dataset_dir": str(some), "output_dir": str(alone)}, training=False)
    assert names(out) == names(alone) and len(names(out)) == 2
    for name in (name for name in names(out) if "_mask" in name):
        ours, theirs = (np.asarray(nibabel.load(one / name).dataobj) for one in (out, alone))
        np.testing.assert_array_equal(ours, theirs)


def test_one_process_finishes_without_torch() -> None:
    program = (
        "import sys; from carde_monai.errors import Failure, finish\n"
        "try: finish([Failure('a', 'b')], None)\n"
        "except SystemExit as end: assert end.code == 3 and 'torch' not in sys.modules\n"
        "else: raise AssertionError"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == f"failed: {Failure('a', 'b').name}: b"
