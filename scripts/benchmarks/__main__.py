"""``scripts/benchmark``: run the sections, print the table, write the raw timings."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.job import SECTIONS, Job
from benchmarks.machine import describe
from benchmarks.table import Row, document, markdown
from benchmarks.timing import progress

SOME_FAILED = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status: 3 if a section failed, the others having been run."""
    options = _parsed(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["./scripts/benchmark", *words])
    machine, start = describe(), time.monotonic()
    rows: list[Row] = []
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="carde_benchmark-") as folder:
        job = Job(Path(folder), options.repeats, options.quick, machine)
        for section in options.only:
            progress(f"== {section}")
            begun = time.monotonic()
            # MONAI logs to stdout, where only the table belongs
            with contextlib.redirect_stdout(sys.stderr):
                try:
                    for row in importlib.import_module(f"benchmarks.{section}").rows(job):
                        rows.append(row)
                        progress(row.line())
                except KeyboardInterrupt:  # what has been measured is still told
                    failed[section] = "stopped by Ctrl-C, and what comes after it"
                    break
                except (Exception, SystemExit) as error:
                    failed[section] = _reason(error)
                    progress(f"failed: {section}: {failed[section]}")
            progress(f"{section} took {time.monotonic() - begun:.0f} s")
    seconds = time.monotonic() - start
    print(markdown(command, machine, rows, failed, seconds))
    if options.json:
        text = json.dumps(document(command, machine, rows, failed, seconds), indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    return SOME_FAILED if failed else 0


def _reason(error: BaseException) -> str:
    """In one line what was raised first; MONAI wraps it."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return " ".join(f"{type(error).__name__}: {error}".split())


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/benchmark", description=__doc__)
    parser.add_argument("--only", type=_sections, default=SECTIONS, help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--json", type=Path, help="file for all raw timings")
    parser.add_argument("--repeats", type=int, default=None, help="reference and ours in turn (5; quick: 2)")
    parser.add_argument("--quick", action="store_true", help="small frames and folders: minutes; no result")
    options = parser.parse_args(arguments)
    if options.repeats is None:
        options.repeats = 2 if options.quick else 5
    if options.repeats < 1:
        parser.error("--repeats is at least 1")
    return options


def _sections(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"no section {unknown[0]}; choose from {','.join(SECTIONS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
