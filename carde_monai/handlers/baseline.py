"""The classical segmentation, run by the evaluator beside the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from monai.utils import convert_to_numpy


def decollated(engine: Engine) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Pairs of batch item and output item of a decollating MONAI engine; TypeError for any other engine."""
    batch, output = engine.state.batch, engine.state.output
    if not isinstance(batch, list) or not isinstance(output, list):
        raise TypeError("this handler needs an evaluator with decollate=True")
    return iter(zip(batch, output, strict=True))


class SimpleITKBaseline:
    """Write the mask of ``carde_monai.baseline.segment`` into each output item, as (1, H, W) floats 0 and 1.

    Reads the raw greys (C, H, W) of ``engine.state.batch[i][source]``: SE2 first, InLens last; one channel
    serves as both. Runs at MODEL_COMPLETED, before the metrics, so that MONAI's MeanDice can take
    ``from_engine([key, "label"])``.
    """

    def __init__(self, source: str = "raw", key: str = "baseline") -> None:
        self.source = source
        self.key = key

    def attach(self, engine: Engine) -> None:
        """Subscribe to the end of each forward pass."""
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        from carde_monai.baseline import segment  # SimpleITK loads half a second; other handlers go without

        for item, output in decollated(engine):
            if self.source not in item:
                raise KeyError(f"the baseline needs the raw greys in {self.source!r}; keys: {sorted(item)}")
            raw = convert_to_numpy(item[self.source])
            label = output.get("label")
            device = label.device if isinstance(label, torch.Tensor) else None
            output[self.key] = torch.from_numpy(segment(raw[0], raw[-1])[None]).float().to(device)
