"""What an MLflow run is to get, written down before it is sent: a file of JSON lines beside the run file."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from carde_monai.errors import InputError

logger = logging.getLogger("carde_monai")

SUFFIX = ".mlflow.jsonl"
REMEDY = "remove it if it is of no use"
NEEDED = {"token", "key", "run_file", "tracking_uri", "experiment_name", "start"}  # in the first line


class Journal:
    """One session of an MLflow run: what it records, entry by entry, and which entries the server has.

    The first line says which run it is. ``{"n": 2, "do": "metrics", ...}`` is an entry, ``{"done": 2}`` its
    receipt, ``{"run_id": ...}`` tells the run that the server has made, ``{"kept": 9, "path": ...}`` where
    an artifact lies meanwhile. A session whose process lives holds a lock, which the system frees however
    that ends. Where the disk is full the rest waits in memory and goes the same way at the next entry.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path, self.header = path, header
        self.entries: dict[int, dict[str, Any]] = {}
        self.done: set[int] = set()
        self.run: dict[str, Any] = {}
        self.trouble = ""
        self._unwritten = b""
        self._closed = False
        self._guard = threading.Lock()
        self._lock = FileLock(path.with_name(f"{path.name}.lock"), thread_local=False)

    @classmethod
    def create(cls, run_file: Path, key: str | None, **facts: Any) -> Journal:
        """A journal beside ``run_file``, locked; ``trouble`` says why it cannot be written, if so.

        ``key`` is that of the run that is continued, None for a new one.
        """
        token = secrets.token_hex(8)
        path = run_file.with_name(f"{run_file.stem}.{token}{SUFFIX}")
        told = {"token": token, "key": key or token, "run_file": run_file.name}
        journal = cls(path, told | facts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            journal._lock.acquire(timeout=0)
        except OSError as error:
            journal.trouble = str(error)
        journal._write(journal.header)
        return journal

    @classmethod
    def read(cls, path: Path) -> Journal:
        """The journal that is there; a last line that was cut off counts as not written.

        Raises:
            InputError: the file is no journal.
        """
        text = path.read_bytes()
        lines = list(_parsed(text))
        if not lines or NEEDED - set(lines[0]) or not isinstance(lines[0]["start"], int):
            raise InputError(path, "is no record of an MLflow run, or is cut off", REMEDY)
        journal = cls(path, lines[0])
        journal._unwritten = b"" if text.endswith(b"\n") else b"\n"
        for line in lines[1:]:
            journal._replay(line)
        return journal

    def _replay(self, line: dict[str, Any]) -> None:
        number = next((line[key] for key in ("n", "done", "kept") if key in line), None)
        if not isinstance(number, int | None):
            return
        if "n" in line:
            self.entries[line["n"]] = line
        elif "done" in line:
            self.done.add(line["done"])
        elif "kept" in line and line["kept"] in self.entries:
            self.entries[line["kept"]]["path"] = str(self.path.parent / line["path"])
        elif "run_id" in line:
            self.run = line
        elif "begin_anew" in line:
            self.done, self.run = set(), {}
            self.header = self.header | {"tracking_uri": line["begin_anew"], "run_id": ""}

    @property
    def run_file(self) -> Path:
        return self.path.with_name(Path(str(self.header["run_file"])).name)

    def pending(self) -> list[int]:
        """Numbers of the entries that the server does not have, in their order."""
        with self._guard:
            return [n for n in sorted(self.entries) if n not in self.done]

    def ended(self) -> bool:
        """Whether the session has come to its own end."""
        return any(entry["do"] in ("end", "died") for entry in self.entries.values())

    def add(self, do: str, **what: Any) -> int:
        """Append an entry; return its number."""
        with self._guard:
            number = len(self.entries) + 1
            self.entries[number] = {"n": number, "do": do, **what}
            self._write(self.entries[number])
        return number

    def mark(self, number: int, **facts: Any) -> None:
        """Note that the server has an entry, or (``refused=reason``) will never take it."""
        with self._guard:
            self.done.add(number)
            self._write({"done": number, **facts})

    def opened(self, **run: Any) -> None:
        """Note which run the server has made or found: ``run_id``, ``run_name``, ``new``."""
        with self._guard:
            self.run = run
            self._write(run)

    def begin_anew(self, address: str) -> None:
        """Count everything as not sent, for the server at another address."""
        with self._guard:
            self._write({"begin_anew": address})
            self._replay({"begin_anew": address})

    def keep_files(self) -> None:
        """Keep the artifacts that the server does not have, for the next training writes over them.

        As a hard link where the disk allows: our files are replaced and never written into.
        """
        for number in self.pending():
            entry = self.entries[number]
            if entry["do"] not in ("file", "picture", "model"):
                continue
            source = Path(entry["path"])
            target = self._files() / str(number) / source.name
            try:
                _link(source, target)
            except OSError as error:
                logger.debug("%s is not kept for MLflow: %s", source, error)
                continue
            with self._guard:
                self._write({"kept": number, "path": target.relative_to(self.path.parent).as_posix()})

    def take(self) -> bool:
        """Lock it and read it again; False if its process lives, or another one is or was faster."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            fresh = Journal.read(self.path)
        except (OSError, InputError):
            self.release()
            return False
        self.header, self.entries, self.done = fresh.header, fresh.entries, fresh.done
        self.run, self._unwritten = fresh.run, fresh._unwritten
        return True

    def release(self) -> None:
        """Leave it to whoever hands it over."""
        self._closed = True
        if self._lock.is_locked:
            # while it is held: who opens it later locks another file, and who has opened it tries again
            with contextlib.suppress(OSError):
                Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def remove(self) -> None:
        """Delete it: the server has everything."""
        with self._guard:
            self._closed = True
        shutil.rmtree(self._files(), ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self.release()

    def _files(self) -> Path:
        return self.path.with_name(f"{self.path.name}.files")

    def _write(self, line: dict[str, Any]) -> None:
        if self._closed:
            return
        self._unwritten += json.dumps(line, default=str).encode() + b"\n"
        try:
            with self.path.open("ab", buffering=0) as file:
                while self._unwritten:
                    self._unwritten = self._unwritten[file.write(self._unwritten) :]
        except OSError as error:
            self.trouble = self.trouble or str(error)


def journals(paths: Iterable[Path]) -> Iterator[Journal]:
    """The journals among files, the oldest sessions first; what is none or was cut off is left out."""
    found = []
    for path in paths:
        with contextlib.suppress(InputError, OSError):
            found.append(Journal.read(path))
    yield from sorted(found, key=lambda one: (int(one.header["start"]), one.path.name))


def put_away(journal: Journal) -> bool:
    """Remove a journal of which nothing is left, else keep it for later; True if nothing is left."""
    if not journal.pending():
        journal.remove()
        return True
    journal.keep_files()
    journal.release()
    return False


def _link(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to a file, or a folder of links to the files of a folder."""
    files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
    for file in files:
        link = target / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, link)
        except OSError:  # another disk, or one without links
            shutil.copyfile(file, link)


def _parsed(text: bytes) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            content = json.loads(line)
            if isinstance(content, dict):
                yield content
