"""What goes wrong because of the user's input, said in one line."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WRONG_USAGE, SOME_FAILED = 2, 3  # exit statuses; 0 only if everything was done
INTERRUPTED = 130  # 128 + SIGINT, as a shell has it


class InputError(ValueError):
    """A user's mistake. ``str(error)`` is one line: which file, what is wrong, what to do."""

    def __init__(self, subject: str | Path, wrong: str, remedy: str = "") -> None:
        super().__init__(" ".join(f"{subject}: {wrong}{'; ' + remedy if remedy else ''}".split()))


def user_mistake(error: BaseException | None) -> InputError | None:
    """The cause of ``error`` that a user can mend, below what MONAI has wrapped around it; None for a bug.

    That is an `InputError`, or what the system says of a file: no permission, a full disk.
    """
    while error is not None:
        if isinstance(error, InputError):
            return error
        if isinstance(error, OSError) and error.filename and error.strerror:
            return InputError(error.filename, error.strerror, "check the path, its permissions and the disk")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


@dataclass(frozen=True)
class Failure:
    """One micrograph or file of a folder that could not be processed; the others were."""

    name: str
    reason: str

    @classmethod
    def of(cls, name: str, error: Exception) -> Failure:
        """The failure of a micrograph by what was raised: of an OSError only what the system says."""
        said = error.strerror if isinstance(error, OSError) else None
        return cls(name, said or str(error))


def write_failures(failures: Iterable[Failure], path: Path) -> None:
    """Write ``failures.csv`` (columns name, reason), or remove a stale one when there are none."""
    rows = [(failure.name, failure.reason) for failure in failures]
    if not rows:
        path.unlink(missing_ok=True)
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "reason"), *rows])


def finish(failures: Iterable[Failure], output_dir: str | Path | None) -> None:
    """End a run over a folder: ``failures.csv``, a line each on stderr, and exit status 3 if there are any.

    Without ``output_dir`` there is no file.

    Raises:
        SystemExit: with status 3, when something failed; everything else has been done by then.
    """
    failures = list(failures)
    listed = ""
    if output_dir is not None:
        path = Path(output_dir) / "failures.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_failures(failures, path)
        listed = f" (listed in {path})"
    if not failures:
        return
    for failure in failures:
        print(f"failed: {failure.name}: {failure.reason}", file=sys.stderr)
    print(f"{len(failures)} failed{listed}; what else there was is done.", file=sys.stderr)
    raise SystemExit(SOME_FAILED)
