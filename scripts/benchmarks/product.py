"""The ways into ours that a user has: the bundle's configs, and the commands in processes of their own."""

from __future__ import annotations

import functools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow
from monai.utils import ensure_tuple_rep

from benchmarks import child
from benchmarks.job import DEFAULT, Job, bundle, overlays, overrides, weights

INFERENCE = ("inference", "sem", "segment")


def workflow(
    configs: Sequence[str], training: bool = False, root: Path | None = None, **settings: Any
) -> ConfigWorkflow:
    """What ``python -m monai.bundle run`` makes of the configs, not yet initialized."""
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it warns of logging_file=False
    return ConfigWorkflow(
        config_file=[str(bundle() / "configs" / f"{name}.json") for name in configs],
        workflow_type="train" if training else "infer",
        logging_file=False,
        bundle_root=str(root or bundle()),
        **settings,
    )


def inference(job: Job, name: str = DEFAULT, source: Path | None = None, **settings: Any) -> ConfigWorkflow:
    """The workflow that ``carde-monai segment`` runs on a folder of raw frames, with one of the networks."""
    folders = {"dataset_dir": str(source or job.frames(1)), "output_dir": str(job.scratch("ours"))}
    everything = {**folders, **overrides(job.folder, name), **settings}
    return workflow((*INFERENCE, *overlays(name)), **everything)


@dataclass(frozen=True)
class Loaded:
    """The configs' network with its weights, their inferer, and a frame as they normalise it.

    ``window`` and ``step`` are rows and columns of the inferer's windows, and from one window to the next.
    """

    evaluator: Any
    image: torch.Tensor
    window: tuple[int, int]
    step: tuple[int, int]

    def __call__(self, image: torch.Tensor | None = None, network: Any = None) -> torch.Tensor:
        """Logits (1, 1, H, W), computed as the evaluator does."""
        engine = self.evaluator
        network = engine.network if network is None else network
        image = (self.image if image is None else image).to(engine.state.device)
        mixed = bool(engine.amp) and image.is_cuda  # MONAI's engines autocast there alone
        with torch.no_grad(), torch.autocast(image.device.type, torch.bfloat16, enabled=mixed):
            return engine.inferer(image, network)

    def pixels(self, image: torch.Tensor | None = None) -> int:
        """How many pixels pass the network for an image, overlap included."""
        counted = 0

        def count(batch: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            nonlocal counted
            counted += batch.shape[0] * batch.shape[2] * batch.shape[3]
            return batch[:, :1]

        self(image, count)
        return counted


def load(job: Job, name: str = DEFAULT, pair: Sequence[Path] | None = None, **settings: Any) -> Loaded:
    """Initialize the inference workflow and take network, inferer and preprocessing from its configs."""
    flow = inference(job, name, **settings)
    flow.initialize()
    evaluator = flow.parser.get_parsed_content("evaluator")
    evaluator.network.eval()
    inferer = flow.parser.get_parsed_content("window")
    window = ensure_tuple_rep(inferer.roi_size, 2)
    overlap = ensure_tuple_rep(inferer.overlap, 2)
    step = tuple(int(edge * (1 - share)) for edge, share in zip(window, overlap, strict=True))
    return Loaded(evaluator, normalised(flow, pair or job.pair()), window, step)


def normalised(flow: ConfigWorkflow, pair: Sequence[Path]) -> torch.Tensor:
    """(1, 2, H, W) frame after the configs' preprocessing."""
    item = {"image": [str(path) for path in pair], "name": Path(pair[0]).stem}
    return flow.parser.get_parsed_content("preprocessing")(item)["image"][None]


@dataclass(frozen=True)
class Run:
    """A process that has ended: wall time, its peak memory, that of it and its workers (0 without)."""

    seconds: float
    peak_mb: float
    tree_peak_mb: float


def run(job: Job, command: Sequence[str | Path]) -> Run:
    """Run a command; raises RuntimeError with its last line if it fails."""
    result, log = job.folder / "child.json", job.folder / "child.log"
    words = [sys.executable, "-I", child.__file__, str(result), str(log), *map(str, command)]
    modules = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    places = {"PYTHONPATH": os.pathsep.join(modules), "DO_NOT_TRACK": "true"}
    subprocess.run(words, check=True, cwd=job.folder, env=os.environ | places)
    measured = json.loads(result.read_text())
    if measured.pop("status"):
        last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
        raise RuntimeError(f"{' '.join(words[5:])} failed: {last}")
    return Run(**measured)


@functools.cache
def program() -> tuple[str, ...]:
    """``carde-monai`` of this environment."""
    script = Path(sys.executable).with_name("carde-monai")
    return (str(script),) if script.is_file() else (sys.executable, "-m", "carde_monai")


def segment(job: Job, source: Path, *options: str) -> Run:
    """``carde-monai segment SOURCE OUT`` in a process of its own; the results are in ``job.folder/ours``."""
    return run(job, [*program(), "segment", source, job.scratch("ours"), *options])


def reference_segment(job: Job, source: Path, rows: int) -> Run:
    """The reference's script in a process of its own; the results are in ``job.folder/reference``."""
    words = [sys.executable, "-m", "benchmarks.reference", source, job.scratch("reference")]
    return run(job, [*words, "--weights", weights(job.folder, DEFAULT), "--rows", str(rows)])


def each(call: Callable[[], Run]) -> Callable[[], float]:
    """The seconds of a process, as `timing.alternate` wants them."""
    return lambda: call().seconds
