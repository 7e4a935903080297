"""The wheel is enough to segment: built from a clean tree, installed apart, run away from the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from carde_monai import bundles


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """A copy of what git knows or would add, with weights; building writes into it."""
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("the tests do not run in a clone")
    folder = tmp_path_factory.mktemp("tree")
    git = ["git", "-c", "safe.directory=*", "ls-files"]  # the clone may be another user's
    listing = run(*git, "-z", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY)
    for name in filter(None, listing.split("\0")):
        if (REPOSITORY / name).is_file():  # not so if it was deleted but not yet from the index
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    model = folder / "bundle" / "models" / "model.pt"
    if not model.exists():
        model.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(trained / "models" / "model.pt", model)
    return folder


def build(tree: Path, dest: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dest, tree, cwd=tree)
    (wheel,) = dest.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tree, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the commands of a fresh environment with the wheel, whose dependencies are those at hand."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    site_packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    # .pth files inside the folders named here are not read, so that an editable install does not come along
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site_packages.strip(), "dependencies.pth").write_text("\n".join(sorted(here)))
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    return python.parent


def test_the_wheel_carries_the_package_and_its_bundle_and_nothing_else(wheel: Path, tree: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    bundle = {
        f"carde_monai/bundle/{path.relative_to(tree / 'bundle').as_posix()}"
        for path in (tree / "bundle").rglob("*")
        if path.is_file()
    }
    sources = [*(tree / "carde_monai").rglob("*.py"), *(tree / "carde_monai" / "templates").iterdir()]
    package = {path.relative_to(tree).as_posix() for path in sources}
    assert {"carde_monai/bundle/LICENSE", "carde_monai/bundle/models/model.pt"} <= bundle
    assert {"carde_monai/bundle/configs/inference.json", "carde_monai/bundle/docs/README.md"} <= bundle
    assert {name for name in names if ".dist-info/" not in name} == bundle | package
    assert not any(part in name for name in names for part in ("tests/", "/eval/", "__pycache__", "/last_"))


def test_what_lies_about_in_the_bundle_is_not_packed(tree: Path, tmp_path: Path) -> None:
    dirty = Path(shutil.copytree(tree, tmp_path / "dirty"))
    for name in ("eval/mlflow.db", "models/last_checkpoint_epoch=2.pt", "models/mlflow_run.json"):
        (dirty / "bundle" / name).parent.mkdir(exist_ok=True)
        (dirty / "bundle" / name).write_text("")
    names = zipfile.ZipFile(build(dirty, tmp_path)).namelist()
    assert not any(part in name for name in names for part in ("/eval/", "/last_", "mlflow"))


def test_the_installed_command_segments_away_from_the_repository(scripts, tree, raw, tmp_path) -> None:
    where = run(scripts / "python", "-c", "import carde_monai; print(carde_monai.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(scripts.parent)
    run(scripts / "carde-monai", "segment", raw / "hold-out", "out", cwd=tmp_path)
    expected = {"dataset_dir": str(raw / "hold-out"), "output_dir": str(tmp_path / "expected")}
    configs = ["inference", "sem", "segment", *bundles.PACKAGED_OVERLAYS]
    bundles.run(tree / "bundle", configs, expected, training=False)
    masks = sorted((tmp_path / "out").glob("*_mask.png"))
    assert [path.name for path in masks] == ["anp_001_mask.png", "anp_003_mask.png"]
    for path in masks:
        mask = np.asarray(Image.open(path))
        assert mask.shape == (160, 208) and set(np.unique(mask)) <= {0, 255}
        np.testing.assert_array_equal(mask, np.asarray(Image.open(tmp_path / "expected" / path.name)))
