"""The notebook in bundle/docs: it runs, and its outputs in the repository are what it says.

``.venv/bin/python tests/test_notebook.py`` runs it and puts its outputs into the repository anew.
"""

from __future__ import annotations

import base64
import io
import os
import re
import tempfile
from pathlib import Path
from unittest.mock import patch

import nbformat
import numpy as np
import pytest
from conftest import REPOSITORY
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

NOTEBOOK = REPOSITORY / "bundle" / "docs" / "carbides.ipynb"
LARGEST = 400_000  # bytes
# the outputs in the repository are those of a processor on which bfloat16 is not fast
FLOAT32 = "import torch; torch.cpu._is_amx_tile_supported = lambda: False; del torch"
NUMBER = re.compile(r"\d+(?:\.\d+)?")
# a folder of a machine, or a time: what a kernel tells of itself
MACHINE = re.compile(
    r"(?<![\w.)])/[a-z]+/[\w.]|\b[a-z]:\\|site-packages|ipykernel|\d\d:\d\d:\d\d", re.IGNORECASE
)


def executed(folder: Path, own: Path) -> NotebookNode:
    """The notebook with the outputs of this Python, run in ``folder``; Jupyter's own files are in ``own``."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    startup = own / "IPYTHONDIR" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "float32.py").write_text(FLOAT32)
    # nobody's own kernels, start-up files and settings
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTER_PATH")
    settings = {name: str(own / name) for name in names}
    with patch.dict(os.environ, settings | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}):
        where = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=600, record_timing=False, resources=where).execute()
    notebook.metadata.language_info = NotebookNode(name="python")  # without this Python's version
    return notebook


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: NotebookNode) -> str:
    """The words and numbers below a cell; not those of its picture, of which no text tells."""
    words = [one.text for one in cell.outputs if one.output_type == "stream" and one.name == "stdout"]
    tables = [one.data for one in cell.outputs if one.output_type == "execute_result"]
    return " ".join(" ".join([*words, *(one["text/plain"] for one in tables)]).split())


def pictures(notebook: NotebookNode) -> list[Image.Image]:
    data = [one.data for cell in code(notebook) for one in cell.outputs if one.output_type == "display_data"]
    return [Image.open(io.BytesIO(base64.b64decode(one["image/png"]))) for one in data]


def agree(new: str, old: str) -> bool:
    """Whether two numbers differ by no more than another processor brings.

    Whole numbers are those of carbides, 0.000 and the like differences.
    """
    least = 2 if old.isdigit() else 0.002 if float(old) else 0.05
    return float(new) == pytest.approx(float(old), rel=0.05, abs=least)


@pytest.fixture(scope="module")
def stored() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def fresh(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    return executed(folder, tmp_path_factory.mktemp("jupyter"))


def test_it_runs_without_a_warning_and_leaves_nothing_behind(fresh: NotebookNode, folder: Path) -> None:
    outputs = [one for cell in code(fresh) for one in cell.outputs]
    told = [one.text for one in outputs if one.get("name") == "stderr"]
    # matplotlib says once in a new home that it looks for fonts
    assert [text for text in told if "font cache" not in text] == []
    assert list(folder.iterdir()) == []


def test_it_says_what_it_said(fresh: NotebookNode, stored: NotebookNode) -> None:
    for new, old in zip(code(fresh), code(stored), strict=True):
        said, says = printed(old), printed(new)
        assert said, f"{new.id} says nothing"
        told = f"{new.id} says\n{says}\nnot\n{said}\nif that is meant: {Path(__file__).name} as a program"
        assert NUMBER.sub("#", says) == NUMBER.sub("#", said), told
        numbers = zip(*(NUMBER.findall(text) for text in (says, said)), strict=True)
        assert all(agree(*pair) for pair in numbers), told
    assert len(pictures(fresh)) == len(pictures(stored))


def test_what_it_says_is_what_it_promises(stored: NotebookNode) -> None:
    said = {cell.id: printed(cell) for cell in code(stored)}
    (differ,) = re.findall(r"^([\d.]+) % of the pixels", said["workflow"])
    assert float(differ) <= 0.05, "MONAI alone finds the same"
    (scores,) = re.findall(
        r"^Dice ([\d.]+) (\d+) carbides found, (\d+) missed, (\d+) false", said["comparison"]
    )
    dice, found, missed, false = (float(one) for one in scores)
    assert 0.85 < dice < 1 and found > 4 * max(missed, false)


def test_the_outputs_stored_are_whole_and_tell_nothing_of_the_machine(stored: NotebookNode) -> None:
    nbformat.validate(stored)
    assert NOTEBOOK.stat().st_size < LARGEST
    assert [cell.execution_count for cell in code(stored)] == list(range(1, len(code(stored)) + 1))
    kinds = {one.output_type for cell in code(stored) for one in cell.outputs}
    assert kinds == {"stream", "display_data", "execute_result"}, "no error"
    assert {one.get("name", "stdout") for cell in code(stored) for one in cell.outputs} == {"stdout"}
    assert stored.metadata.keys() == {"kernelspec", "language_info"}
    assert all(cell.metadata == {} for cell in stored.cells)
    for picture in pictures(stored):
        assert picture.info.keys() <= {"Software", "dpi"} and np.ptp(np.asarray(picture.convert("L"))) > 99
        picture.close()
    without_pictures = re.sub(r'"image/png": "[^"]*"', "", NOTEBOOK.read_text(encoding="utf-8"))
    assert MACHINE.findall(without_pictures) == []


@pytest.mark.parametrize(
    "text", ["/home/me/a.py", "'/work/main/bundle'", r"C:\Users\me", "12:30:59", "lib/site-packages"]
)
def test_what_a_machine_tells_of_itself_is_seen(text: str) -> None:
    assert MACHINE.search(f"in {text} it is")


def main() -> None:
    """Run the notebook and write it with its outputs."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as own:
        nbformat.write(executed(Path(folder), Path(own)), NOTEBOOK)


if __name__ == "__main__":
    main()
