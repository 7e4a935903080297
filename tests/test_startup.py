from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from carde_monai.startup import importing


@pytest.fixture(autouse=True)
def garbage_collection() -> Iterator[None]:
    """As it was, whatever a test does."""
    yield
    gc.unfreeze()
    gc.enable()


def test_imports_run_without_garbage_collection() -> None:
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_was_imported_is_left_out_of_later_collections() -> None:
    gc.unfreeze()
    with importing():
        made = [[] for _ in range(1000)]
    assert gc.get_freeze_count() > len(made)


def test_a_failed_import_leaves_garbage_collection_on() -> None:
    with pytest.raises(ModuleNotFoundError), importing():
        import no_such_module  # noqa: F401
    assert gc.isenabled()


def test_garbage_collection_that_was_off_stays_off() -> None:
    gc.disable()
    with importing():
        pass
    assert not gc.isenabled()


def test_handlers_load_without_simpleitk() -> None:
    code = "import sys, carde_monai.handlers; print('SimpleITK' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == "False"
