"""Folders of labels and masks, each with its fault, between good ones."""

from __future__ import annotations

import re

import pytest
from drawings import LABELS, MASK, MASKS, picture
from faults import DONE, FAILED, Case, grey, tiff
from runs import Run, listed
from world import cli

GOOD = ("good_001", "good_003", "good_005")
FILES = {"prepare": ("labels/{}.nii.gz", "images/{}.nii.gz"), "measure": ("{}_labels.tif",)}
CASES = [("prepare", case) for case in LABELS] + [("measure", case) for case in MASKS]


@pytest.fixture(scope="session")
def runs(tmp_path_factory, cli) -> dict[str, Run]:
    """Each verb over the good files alone and over all."""
    done = {}
    for verb, cases, end in (("prepare", LABELS, "label"), ("measure", MASKS, "mask")):
        for what in ("", " good"):
            source = tmp_path_factory.mktemp("corpus")
            masks = source if verb == "prepare" else tmp_path_factory.mktemp("masks")
            for seed, name in enumerate((*GOOD, *(f"{case.name}_001" for case in cases if not what))):
                for channel in (0, 1):
                    number = int(name[-3:]) + channel
                    tiff(grey(2 * seed + channel))(source / f"{name[:-3]}{number:03}.tif")
            for name in GOOD:
                picture(MASK)(masks / f"{name}_{end}.png")
            for case in cases if not what else ():
                case.build(masks / f"{case.name}_001_{end}")
            output = tmp_path_factory.mktemp(verb) / "out"
            options = ["--split", "1,1,1"] if verb == "prepare" else ["--images", source]
            status, lines = cli(verb, masks, output, *options)
            done[verb + what] = Run(status, lines, output, listed(output))
    return done


@pytest.mark.parametrize(("verb", "case"), CASES, ids=str)
def test_a_fault_has_its_outcome(case: Case, verb: str, runs: dict[str, Run]) -> None:
    run, name = runs[verb], f"{case.name}_001"
    failed = case.of(verb) == FAILED
    assert (run.output / FILES[verb][0].format(name)).exists() != failed
    assert (name in run.failures) == failed
    if failed:
        assert re.search(case.told, run.failures[name]) and ";" in run.failures[name]
        assert name in run.failures[name].replace("_mask", "")
        assert sum(line.startswith(f"failed: {name}: ") for line in run.lines) == 1


@pytest.mark.parametrize("verb", FILES)
def test_good_ones_are_the_same_as_alone(verb: str, runs: dict[str, Run]) -> None:
    mine, alone = runs[verb], runs[f"{verb} good"]
    assert (mine.status, alone.status) == (3, 0) and not alone.failures
    assert len(mine.failures) == sum(case.of(verb) != DONE for one, case in CASES if one == verb)
    for name in GOOD:
        for form in FILES[verb]:
            file = form.format(name)
            assert (mine.output / file).read_bytes() == (alone.output / file).read_bytes()
