"""Passes over the micrographs that cannot be read or segmented while an evaluator runs, and lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset, decollate_batch
from monai.utils import convert_to_numpy, convert_to_tensor, ensure_tuple
from torch import Tensor

from carde_monai.errors import Failure, InputError, user_mistake
from carde_monai.handlers.segmentation import micrograph_name, name_of_file
from carde_monai.nifti import SUFFIX, damage
from carde_monai.report import check_numbers
from carde_monai.spacing import AbsurdSize
from carde_monai.transforms import collate_one

Item = dict[Any, Any]


class Readable(Dataset):
    """MONAI's ``Dataset``, but in the place of an item whose files cannot be read stands its `Failure`.

    A file that was whole when the folder was listed may be gone or damaged at its turn. Any other error of a
    transform is raised as ever.
    """

    def _transform(self, index: int) -> Item | Failure:
        try:
            return super()._transform(index)
        except Exception as error:
            item = self.data[index]
            files = [Path(file) for file in ensure_tuple(item["image"])]
            mistake = user_mistake(error) or next(filter(None, map(_damage, files)), None)
            if mistake is None:
                raise
            return Failure.of(item_name(item), mistake)


def _damage(file: Path) -> InputError | None:
    return damage(file) if file.name.lower().endswith(SUFFIX) else None


def item_name(item: Mapping[str, Any]) -> str:
    """What the micrograph of an item that has not been read is called: its ``name``, else its file's."""
    return str(item.get("name") or name_of_file(str(ensure_tuple(item["image"])[0])))


def collate(items: Sequence[Item | Failure]) -> tuple[Item | None, list[Failure]]:
    """The batch of the items of a `Readable` that could be read, None if there is none, and the failures."""
    read = [one for one in items if not isinstance(one, Failure)]
    return (collate_one(read) if read else None), [one for one in items if isinstance(one, Failure)]


def without_infinity(output: Tensor) -> Tensor:
    """A network's output with NaN for infinity, of which a sigmoid would make certainty; in place."""
    plain = convert_to_tensor(output, track_meta=False)
    if torch.isinf(torch.stack(torch.aminmax(plain))).any():
        plain.masked_fill_(torch.isinf(plain), torch.nan)
    return output


class PassingOver:
    """``iteration_update`` of an evaluator that takes the batches of `collate` and lists the ``failures``.

    Its handlers get the micrographs that were read and whose ``probability`` (1, H, W) is a number in every
    pixel. ``discard`` is told the name of one where it is not, whose earlier results are out of date.
    """

    def __init__(self, discard: Callable[[str], object] | None = None) -> None:
        self.discard = discard
        self.failures: list[Failure] = []

    def __call__(self, engine: Any, batch: tuple[Item | None, list[Failure]]) -> list[Item]:
        if engine.state.iteration == 1:
            self.failures.clear()  # the same list, which others may hold
        items, failures = batch
        self.failures += failures
        engine.state.batch = []
        outputs = [] if items is None else self._segmented(engine, items)
        good = [self._is_good(*pair) for pair in zip(engine.state.batch, outputs, strict=True)]
        engine.state.batch = [one for one, fine in zip(engine.state.batch, good, strict=True) if fine]
        return [one for one, fine in zip(outputs, good, strict=True) if fine]

    def _segmented(self, engine: Any, items: Item) -> list[Item]:
        engine.state.batch = items
        try:
            return engine._iteration(engine, items)
        except AbsurdSize as error:
            for item in decollate_batch(items):
                self._fail(micrograph_name(item), error)
            engine.state.batch = []
            return []

    def _is_good(self, item: Item, output: Item) -> bool:
        name = micrograph_name(item)
        try:
            check_numbers(name, convert_to_numpy(output["probability"]))
        except InputError as error:
            self._fail(name, error)
            return False
        return True

    def _fail(self, name: str, error: InputError) -> None:
        self.failures.append(Failure.of(name, error))
        if self.discard is not None:
            self.discard(name)
