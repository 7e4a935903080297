"""Trainings on few annotated micrographs, scored on micrographs that took no part in them.

    ni1, ni2, ni4, ni10   Ni superalloy, so many training images, each set within the next; tested on `val`
                          and on `other` (other alloys, etching, voltage); settings can be compared on
                          the training images that are left over
    uhcs                  ultrahigh-carbon steel, four classes, the published folds that are here, each left
                          out once
    rpv10                 synthetic reactor-pressure-vessel steel, ten micrographs; tested on four of the same
                          steel and four of another, with fixed seeds

Every training is one of `carde-monai train --overlay few`, of a fixed length: nothing of the test chooses
weights, settings or length. Each is evaluated with `--overlay tta`. A training is its start (random weights,
or the shipped ones) and its seed. What OUT holds already is not trained again. OUT gets results.csv (a row a
training and section), results.md (mean and standard deviation, to paste) and learning_curves.png.
Data: Stuckner et al. 2022 (npj Comput. Mater. 8, 200), DeCost et al. 2019.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy import results
from benchmarks.accuracy.runs import STARTS, Run, is_done, perform
from benchmarks.accuracy.tasks import NAMES, prepared, tasks

from carde_monai.errors import INTERRUPTED, SOME_FAILED, WRONG_USAGE, InputError, user_mistake


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, print a line a training and the summary of all in OUT.

    Returns the exit status: 3 if some trainings failed, the others having been done; 130 after Ctrl-C.
    """
    options = _parsed(arguments)
    if options.plot:
        try:
            print(results.report(results.read(options.out), options.out))
        except InputError as error:
            print(error, file=sys.stderr)
            return WRONG_USAGE
        return 0
    failed = 0
    for run in list(_runs(options)):
        try:
            if not is_done(run, options.out):
                perform(run, prepared(run.task, options.data, options.out), options.out)
        except KeyboardInterrupt:
            print(f"{run.name}: stopped; the same command goes on with it", file=sys.stderr)
            return INTERRUPTED
        except Exception as error:
            if (mistake := user_mistake(error)) is None:
                raise
            print(f"{run.name}: failed: {mistake}", file=sys.stderr, flush=True)
            failed += 1
            continue
        _tell(run, results.collect(options.out))
    table = results.collect(options.out)
    if len(table):
        print(results.report(table, options.out))
    return SOME_FAILED if failed else 0


def _runs(options: argparse.Namespace) -> Iterator[Run]:
    """Seed by seed, so that a benchmark that is stopped has something of everything."""
    wanted = list(tasks(options.data, options.only))
    for seed in range(options.seeds):
        for task in wanted:
            for start in options.start:
                yield Run(task, start, seed, dict(options.set))


def _tell(run: Run, table: Any) -> None:
    task = run.task
    rows = table[(table["task"] == task.name) & (table["start"] == run.start) & (table["seed"] == run.seed)]
    if task.fold is not None:
        rows = rows[rows["fold"] == task.fold]
    for row in rows.to_dict("records"):
        found = [f"{key} {row[key]:.4f}" for key in results.METRICS if row[key] == row[key]]  # not NaN
        print(f"{run.name}, {row['section']} ({row['n']}): {', '.join(found)}", flush=True)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/benchmark_accuracy", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", type=_some_of(NAMES), default=NAMES, help=f"some of {','.join(NAMES)}")
    parser.add_argument("--start", type=_some_of(STARTS), default=STARTS, help=f"some of {','.join(STARTS)}")
    parser.add_argument("--seeds", type=_count, default=3, help="how many, from 0 on")
    parser.add_argument("--out", type=Path, default=Path("accuracy"))
    setting = {"action": "append", "default": [], "type": _setting, "metavar": "ID=VALUE"}
    parser.add_argument("--set", **setting, help="a setting of train, its value as JSON; several times")
    parser.add_argument(
        "--plot", action="store_true", help="summary and figure of OUT/results.csv; no training"
    )
    return parser.parse_args(arguments)


def _some_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {','.join(known)}")
        return tuple(dict.fromkeys(names))

    return parse


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1")
    return int(text)


def _setting(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not ID=VALUE with a value as JSON") from None


if __name__ == "__main__":
    sys.exit(main())
