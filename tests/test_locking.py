"""One run at a time in a folder, and no lock or half file that outlives its process."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock, SoftFileLock

from carde_monai.errors import InputError
from carde_monai.locking import LOCK, claimed
from carde_monai.replacing import all_or_none, replace_file, replace_text

HOLD = """
import pathlib, sys
from carde_monai.locking import claimed
with claimed(pathlib.Path(sys.argv[1])):
    print(1, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds tmp_path / "out"."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "1\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_until_the_first_is_killed(holder, tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="another run of carde-monai is writing there; wait"),
        claimed(tmp_path / "other", tmp_path / "out"),
    ):
        pass
    assert not (tmp_path / "other").exists()
    (tmp_path / "out" / ".part_x.csv").write_text("half")
    (tmp_path / "out" / "figures" / ".part_7").mkdir(parents=True)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with claimed(tmp_path / "out"):
        assert {path.name for path in (tmp_path / "out").rglob("*")} == {LOCK, "figures"}
    assert {path.name for path in (tmp_path / "out").rglob("*")} == {"figures"}


def test_what_a_neighbour_is_writing_further_down_is_left(holder, tmp_path: Path) -> None:
    theirs, left = tmp_path / "out" / ".part_theirs", tmp_path / "other" / ".part_left"
    for folder in (theirs, left):
        folder.mkdir(parents=True)
    with claimed(tmp_path):
        assert theirs.exists() and not left.exists()


def test_the_same_folder_under_two_names_is_claimed_once(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with claimed(tmp_path / "out", tmp_path / "link"):
        pass
    assert not (tmp_path / "out").exists()  # nothing was written


@pytest.mark.parametrize("how", ["no locks", "soft"])
def test_a_file_system_without_locks_is_a_warning(how, tmp_path: Path, monkeypatch, caplog) -> None:
    def refuse(self: FileLock, timeout: float) -> None:
        if how == "no locks":
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        self.__class__ = SoftFileLock  # as filelock does
        SoftFileLock.acquire(self, timeout=timeout)

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with caplog.at_level(logging.WARNING), claimed(tmp_path):
        (tmp_path / "result").write_text("")
    assert "start no second run into it" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_other_processes_of_a_distributed_run_join_the_first(holder, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with claimed(tmp_path / "out"):
        pass


def test_nothing_is_replaced_after_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def write(path: Path) -> None:
        path.write_text("half")
        raise OSError

    with pytest.raises(OSError):
        replace_file(tmp_path / "a.txt", write)
    with pytest.raises(OSError), all_or_none(tmp_path) as folder:
        write(folder / "a.txt")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_files_and_folders_are_put_in_place(tmp_path: Path) -> None:
    with all_or_none(tmp_path / "new") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "b.txt").write_text("b")
        replace_text(folder / "a.txt", "a\r\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"a\r\n"
    assert (tmp_path / "new" / "sub" / "b.txt").read_text() == "b"
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"a.txt", "sub"}
