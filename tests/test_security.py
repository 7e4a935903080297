"""What strangers can give us, weights, images, names, does not run code: tried with pickles that would."""

from __future__ import annotations

import ast
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.transforms import LoadImaged

from carde_monai import __main__ as command_line
from carde_monai import bundles
from carde_monai.carde_unet import CardeUNet
from carde_monai.errors import user_mistake

PACKAGE = Path(command_line.__file__).parent
QUICK: dict[str, Any] = {"max_epochs": 1, "epoch_length": 1, "batch_size": 2, "crops_per_micrograph": 2}
QUICK |= {"roi_size": [64, 64], "window_size": [128, 128], "tracking_uri": None}


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def write_zip(content: Any, path: Path) -> None:
    torch.save(content, path)


def write_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))  # as torch.save; of others it warns


WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy, write_pickle])


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Is there if the code has run."""
    return tmp_path / "ran"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return bundles.working_bundle(tmp_path / "bundle")


def refuses(mark: Path, call: Callable[[], Any]) -> str:
    """One line that says why, and the code has not run."""
    with pytest.raises((Exception, SystemExit)) as caught:
        call()
    assert not mark.exists(), "the pickle's code was run"
    told = user_mistake(caught.value)
    assert told is not None, f"no reason for users in {caught.value!r}"
    return str(told)


def test_the_pickles_are_evil_indeed(mark: Path, tmp_path: Path) -> None:
    for write in (write_zip, write_legacy, write_pickle):
        write({"model": Evil(mark)}, tmp_path / "evil.pt")
        loaders = {write_pickle: lambda path: pickle.loads(path.read_bytes())}
        loaders.get(write, lambda path: torch.load(path, weights_only=False))(tmp_path / "evil.pt")
        assert mark.exists()
        mark.rmdir()


def unlabelled(raw: Path, tmp_path: Path) -> Path:
    """The raw micrographs without their labels."""
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for path in raw.glob("*.tif"):
        shutil.copy(path, folder)
    return folder


@WRITERS
@pytest.mark.parametrize("verb", ["train", "calibrate", "evaluate", "segment", "suggest", "export"])
def test_no_verb_runs_the_code_of_weights(
    verb: str,
    write: Callable[[Any, Path], None],
    mark: Path,
    bundle: Path,
    dataset: Path,
    raw: Path,
    tmp_path: Path,
) -> None:
    evil = bundle / "models" / "evil.pt"
    write({"model": Evil(mark)}, evil)
    out = str(tmp_path / "out")
    call = {
        "segment": ((dataset, out), {}),
        "suggest": ((unlabelled(raw, tmp_path), out), {}),
        "export": ((f"{out}.onnx",), {}),
    }
    places, overrides = call.get(verb, ((dataset,), QUICK | {"output_dir": out}))
    told = {"bundle": str(bundle), "weights": str(evil), **overrides}
    said = refuses(mark, lambda: command_line.VERBS[verb](*map(str, places), **told))
    assert "evil.pt" in said


@WRITERS
def test_nor_of_one_in_an_ensemble(
    write: Callable[[Any, Path], None], mark: Path, bundle: Path, dataset: Path, tmp_path: Path
) -> None:
    good = bundles.packaged_bundle() / "models" / "model.pt"
    evil = tmp_path / "evil.pt"
    write({"model": Evil(mark)}, evil)
    both = {"weights": f"{good},{evil}"}
    told = refuses(
        mark, lambda: command_line.segment(str(dataset), str(tmp_path / "out"), bundle=str(bundle), **both)
    )
    assert "evil.pt" in told


@WRITERS
def test_nor_of_a_training_to_resume(
    write: Callable[[Any, Path], None], mark: Path, bundle: Path, dataset: Path, tmp_path: Path
) -> None:
    write({"training": {"settings": {}, "epoch": 1}, "network": Evil(mark)}, bundle / "models" / "last.pt")
    overrides = QUICK | {"resume": True, "output_dir": str(tmp_path / "out")}
    told = refuses(mark, lambda: command_line.train(str(dataset), bundle=str(bundle), **overrides))
    assert "last.pt" in told


@WRITERS
def test_nor_of_a_checkpoint_to_import(
    write: Callable[[Any, Path], None], mark: Path, bundle: Path, tmp_path: Path
) -> None:
    network = {f"model.{name}": one for name, one in CardeUNet(1, 2).state_dict().items()}
    write({"state_dict": network, "callbacks": Evil(mark)}, tmp_path / "evil.ckpt")
    assert "evil.ckpt" in refuses(
        mark, lambda: command_line.import_carde(str(tmp_path / "evil.ckpt"), str(bundle))
    )


@WRITERS
def test_nor_of_weights_whose_depth_is_looked_up(
    write: Callable[[Any, Path], None], mark: Path, bundle: Path, dataset: Path, tmp_path: Path
) -> None:
    write({"model": Evil(mark)}, bundle / "models" / "carde.pt")
    refuses(
        mark,
        lambda: command_line.segment(
            str(dataset), str(tmp_path / "out"), bundle=str(bundle), overlay="carde_unet"
        ),
    )


def test_nor_does_the_environment_change_that(
    mark: Path, bundle: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    write_zip({"model": Evil(mark)}, tmp_path / "evil.pt")
    told = {"weights": str(tmp_path / "evil.pt")}
    refuses(
        mark, lambda: command_line.segment(str(dataset), str(tmp_path / "out"), bundle=str(bundle), **told)
    )


@pytest.mark.parametrize("name", ["evil.npy", "evil.npz", "evil.nii.gz", "evil.pkl"])
def test_an_image_that_is_a_pickle_is_none(name: str, mark: Path, tmp_path: Path) -> None:
    write_pickle(Evil(mark), tmp_path / name)
    with pytest.raises(RuntimeError):  # MONAI tries its other readers when the configs' one cannot
        LoadImaged(keys="image", reader="NibabelReader")({"image": str(tmp_path / name)})
    assert not mark.exists()


def calls(source: str) -> list[tuple[str, ast.Call]]:
    """Calls with the dotted name of what is called."""
    return [(ast.unparse(one.func), one) for one in ast.walk(ast.parse(source)) if isinstance(one, ast.Call)]


OWN_FILE = ("export_formats.py", "torch.jit.load")  # which it has written the line before


def test_nothing_in_the_package_unpickles() -> None:
    """A new torch.load without weights_only, or a pickle.load, is to be seen here first."""
    found = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, call in calls(path.read_text(encoding="utf-8")):
            options = {one.arg: ast.unparse(one.value) for one in call.keywords}
            where = f"{path.name}:{call.lineno}: {name}"
            if name == "torch.load":
                found += 1
                assert options.get("weights_only") == "True", where
            elif name == "np.load":
                assert options.get("allow_pickle") == "False", where
            if (path.name, name) != OWN_FILE:
                assert not name.endswith(("pickle.load", "pickle.loads", "joblib.load", "jit.load")), where
            assert name not in ("eval", "exec", "os.system", "yaml.load"), where
            assert options.get("shell", "False") == "False", where
            assert "0.0.0.0" not in map(str, options.values()), where
    assert found >= 4


def test_no_config_unpickles_and_no_command_opens_a_port_to_others() -> None:
    root = PACKAGE.parent
    configs = list((bundles.packaged_bundle() / "configs").glob("*.json"))
    assert len(configs) > 10
    for path in configs:
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("torch.load", "pickle", "allow_pickle", "jit.load")), path
    documents = [
        path for path in (root / "README.md", root / "bundle" / "docs" / "README.md") if path.is_file()
    ]
    for path in [*documents, *PACKAGE.rglob("*.py"), *(root / "scripts").glob("*")]:
        if path.is_file():
            text = path.read_bytes().decode("utf-8", "replace")
            assert "--host" not in text and "0.0.0.0" not in text, path
