"""What goes wrong because of the user's input, said in one line."""

from __future__ import annotations

import csv
import errno
import io
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carde_monai.replacing import replace_text

WRONG_USAGE, SOME_FAILED = 2, 3  # exit statuses; 0 only if everything was done
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INTERRUPTED = 130  # 128 + SIGINT, as a shell has it


class InputError(ValueError):
    """A user's mistake. ``str(error)`` is one line: which file, what is wrong, what to do."""

    def __init__(self, subject: str | Path, wrong: str, remedy: str = "") -> None:
        told = f"{printable(str(subject))}: {wrong}{'; ' + remedy if remedy else ''}"
        super().__init__(printable(" ".join(told.split())))


def printable(text: str) -> str:
    """The text with escapes for what would break a line, steer a terminal, or cannot be encoded."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def user_mistake(error: BaseException | None) -> InputError | None:
    """The cause of ``error`` that a user can mend, below what MONAI has wrapped around it; None for a bug.

    That is an `InputError`, or what the system says of a file: no permission, a full disk.
    """
    while error is not None:
        if isinstance(error, InputError):
            return error
        if isinstance(error, OSError) and (mistake := _of_the_system(error)):
            return mistake
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _of_the_system(error: OSError) -> InputError | None:
    remedy = "check the path, its permissions and the disk"
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        _, path, said = error.args[0][0]  # of the files that copytree could not copy, the first
        return InputError(path, said.partition(": ")[0], remedy)
    if error.filename and error.strerror:
        return InputError(error.filename, error.strerror, remedy)
    if error.errno in FULL:  # writers of pictures and tables do not say which file
        return InputError("the results", error.strerror, "make room, or choose a folder on another disk")
    return None


@dataclass(frozen=True)
class Failure:
    """One micrograph or file of a folder that could not be processed; the others were."""

    name: str
    reason: str

    def __post_init__(self) -> None:
        for key in ("name", "reason"):
            object.__setattr__(self, key, printable(str(getattr(self, key))))

    @classmethod
    def of(cls, name: str, error: Exception) -> Failure:
        """The failure of a micrograph by what was raised; of an OSError what the system says."""
        return cls(name, str(user_mistake(error) or error))


def write_failures(failures: Iterable[Failure], path: Path) -> None:
    """Write ``failures.csv`` (columns name, reason), or remove a stale one when there are none."""
    rows = [(failure.name, failure.reason) for failure in failures]
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    csv.writer(text).writerows([("name", "reason"), *rows])
    replace_text(path, text.getvalue())


def finish(failures: Iterable[Failure], output_dir: str | Path | None) -> None:
    """End a run over a folder: ``failures.csv``, a line each on stderr, and exit status 3 if there are any.

    Without ``output_dir`` there is no file. Of processes that run together (torchrun) all end alike, and the
    first writes and tells the failures of all, each once.

    Raises:
        SystemExit: with status 3, when something failed; everything else has been done by then.
    """
    failures = list(failures)
    together = _processes()
    if together:
        parts: list[Any] = [None] * together.get_world_size()
        together.all_gather_object(parts, failures)
        failures = list(dict.fromkeys(one for part in parts for one in part))
    if not together or together.get_rank() == 0:
        _tell(failures, output_dir)
    if not failures:
        return
    if together:
        together.barrier()  # torchrun ends the others as soon as one exits with a status
    raise SystemExit(SOME_FAILED)


def _processes() -> Any:
    """``torch.distributed`` if this is one of several processes that run together; does not load torch."""
    distributed = sys.modules.get("torch.distributed")
    running = distributed and distributed.is_available() and distributed.is_initialized()
    return distributed if running else None


def _tell(failures: list[Failure], output_dir: str | Path | None) -> None:
    listed = ""
    if output_dir is not None:
        path = Path(output_dir) / "failures.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_failures(failures, path)
        listed = f" (listed in {path})"
    for failure in failures:
        print(f"failed: {failure.name}: {failure.reason}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} failed{listed}; what else there was is done.", file=sys.stderr)
