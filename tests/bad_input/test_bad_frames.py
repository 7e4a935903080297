"""A folder of good pairs and of every faulty one: each fault has its outcome, the good ones are untouched."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from faults import DONE, FAILED, WARNED, Case, grey, tiff
from frames import CASES
from PIL import Image
from runs import Run, listed
from world import bundle, cli

GOOD = ("good_001", "good_003", "good_005", "zz_001")
VERBS = ("segment", "prepare")
# of a micrograph, what must not depend on what else lies in the folder
FILES = {
    "segment": ("{}_mask.png", "{}_probability.tif", "{}_confidence.png", "{}_overlay.png", "{}_labels.tif"),
    "prepare": ("images/{}.nii.gz", "quicklook/{}.png"),
}


def _good(folder: Path) -> None:
    for seed, name in enumerate(GOOD):
        stem, _, number = name.rpartition("_")
        for channel in (0, 1):
            tiff(grey(7 * seed + channel))(folder / f"{stem}_{int(number) + channel:03}.tif")
    mask = np.zeros(grey().shape, np.uint8)
    mask[20:30, 40:52] = 255
    for name in GOOD[:3]:
        Image.fromarray(mask).save(folder / f"{name}_label.png")


@pytest.fixture(scope="session")
def runs(tmp_path_factory, bundle, cli) -> dict[str, Run]:
    """Each verb over the good files alone (``segment good``) and over all (``segment``)."""
    done = {}
    for what in ("", " good"):
        source = tmp_path_factory.mktemp("corpus")
        _good(source)
        for case in CASES if not what else ():
            case.build(source)
        for verb in VERBS:
            output = tmp_path_factory.mktemp(verb) / "out"
            options = ["--bundle", bundle] if verb == "segment" else ["--split", "1,1,1"]
            status, lines = cli(verb, source, output, *options)
            done[verb + what] = Run(status, lines, output, listed(output))
    return done


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_fault_has_its_outcome(case: Case, verb: str, runs: dict[str, Run]) -> None:
    run, name = runs[verb], case.micrograph or f"{case.name}_001"
    outcome = case.of(verb)
    written = (run.output / FILES[verb][0].format(name)).exists()
    assert written == (outcome != FAILED)
    assert (name in run.failures) == (outcome == FAILED)
    told = [line for line in run.lines if re.search(case.told, line)] if case.told else []
    if outcome == FAILED:
        assert re.search(case.told, run.failures[name])
        assert ";" in run.failures[name] and "\n" not in run.failures[name]
        assert sum(line.startswith(f"failed: {name}: ") for line in run.lines) == 1
    if outcome == WARNED:
        assert told
    if outcome == DONE:
        assert not any(name in line for line in run.lines)


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_else_is_said_and_the_status_tells(verb: str, runs: dict[str, Run]) -> None:
    assert runs[verb].status == 3 and runs[f"{verb} good"].status == 0
    assert runs[f"{verb} good"].lines == []
    assert len(runs[verb].failures) == sum(case.of(verb) == FAILED for case in CASES)
    assert not any("Traceback" in line for line in runs[verb].lines)


@pytest.mark.parametrize("verb", VERBS)
def test_good_files_give_the_same_bytes_as_alone(verb: str, runs: dict[str, Run]) -> None:
    for name in GOOD:
        for form in FILES[verb]:
            mine, alone = (runs[one].output / form.format(name) for one in (verb, f"{verb} good"))
            assert mine.read_bytes() == alone.read_bytes()


@pytest.mark.parametrize(
    ("name", "rows"), [("bar", 96), ("dark", 96), ("top", 108), ("middle", 108), ("lone", 96), ("row", 1)]
)
def test_only_a_bar_at_the_lower_edge_is_cut(name: str, rows: int, runs: dict[str, Run]) -> None:
    with Image.open(runs["segment"].output / f"{name}_001_mask.png") as mask:
        assert mask.height == rows
