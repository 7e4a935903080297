"""One prediction out of several (symmetries of the image, networks of an ensemble), and how they disagree.

The members' probabilities are averaged. Their disagreement is the mutual information between the class of a
pixel and the choice of the member, H(mean p) - mean H(p), in nats: 0 where all agree, however unsure each
is, and at most ln 2 (Houlsby et al. 2011; Gal, Islam & Ghahramani 2017 for networks).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.engines import Evaluator
from monai.inferers import Inferer
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn

from carde_monai.errors import InputError
from carde_monai.provenance import weight_files

TINY = torch.finfo(torch.float32).tiny
# rotations by 90 degrees, with or without a flip before: the symmetries of the square
SYMMETRIES = tuple((turns, flip) for flip in (False, True) for turns in range(4))


def combine(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logit of the mean probability, and mutual information in nats, of members' logits (k, ...).

    Both have the shape of one member, float32. 1 - p is a mean of its own, so that both tails keep
    float32's relative precision.
    """
    positive = torch.zeros_like(logits[0], dtype=torch.float32)
    negative, entropy = torch.zeros_like(positive), torch.zeros_like(positive)
    for logit in logits.float():  # one after the other: temporary memory does not grow with the members
        p, q = torch.sigmoid(logit), torch.sigmoid(-logit)
        positive += p
        negative += q
        entropy += torch.special.entr(p) + torch.special.entr(q)
    for total in (positive, negative, entropy):
        total /= len(logits)
    information = torch.special.entr(positive) + torch.special.entr(negative) - entropy
    return log_odds(positive, negative), information.clamp(min=0)  # below 0 by rounding only


def log_odds(positive: Tensor, negative: Tensor) -> Tensor:
    """The logit of a probability ``positive``, given with its complement ``negative``; within -87 and 87."""
    return torch.log(positive.clamp(min=TINY)) - torch.log(negative.clamp(min=TINY))


class Combined(MapTransform):
    """Turn the logits (k, H, W) of k members into the logit (1, H, W) of their mean probability.

    Their mutual information in nats goes to ``map_key``, (1, H, W). Of several ``classes`` the logits are
    (k classes, H, W), member by member, and the results (classes, H, W).
    """

    def __init__(
        self, keys: KeysCollection = "pred", map_key: str = "mutual_information", classes: int = 1
    ) -> None:
        super().__init__(keys)
        self.map_key, self.classes = map_key, classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            logits = convert_to_tensor(item[key], track_meta=False)
            both = combine(logits.unflatten(0, (-1, self.classes)))
            item[key], item[self.map_key] = (convert_to_dst_type(one, item[key])[0] for one in both)
        return item


class SymmetryInferer(Inferer):
    """Run ``inferer`` on the eight rotations and flips of the image (N, C, H, W) and turn the results back.

    The result (N, 8 k, H, W) holds the logits of all, for `Combined`; k is the number of networks of an
    `Ensemble`, else 1, times that of ``classes``. It surrounds the sliding window, whose places are not
    symmetric, so that the mean turns exactly with the image. InputError for a network of another number of
    outputs.
    """

    def __init__(self, inferer: Inferer, classes: int = 1) -> None:
        super().__init__()
        self.inferer, self.classes = inferer, classes

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        image, logits = convert_to_tensor(inputs, track_meta=False), None
        for place, (turns, flip) in enumerate(SYMMETRIES):
            seen = torch.rot90(image.flip(-1) if flip else image, turns, (-2, -1)).contiguous()
            if isinstance(inputs, MetaTensor):
                seen = MetaTensor(seen, meta=inputs.meta)  # which may say how to scale it
            found = convert_to_tensor(self.inferer(seen, network, *args, **kwargs), track_meta=False)
            found = torch.rot90(found, -turns, (-2, -1))
            if logits is None:
                members = len(network.states) if isinstance(network, Ensemble) else 1
                _check_channels(found, members * self.classes)
                logits = found.new_empty((len(found), len(SYMMETRIES), *found.shape[1:]))
            logits[:, place] = found.flip(-1) if flip else found
        assert logits is not None
        return convert_to_dst_type(logits.flatten(1, 2), inputs, dtype=logits.dtype, device=logits.device)[0]


class Ensemble(nn.Module):
    """One network with the weights of several: (N, C, H, W) becomes (N, k, H, W), a logit for each of them.

    ``states`` are complete state dicts of ``network``, on its device; with several ``classes``, k is their
    number times that of the states. InputError for a network of another number of outputs.
    """

    def __init__(self, network: nn.Module, states: Sequence[Mapping[str, Tensor]], classes: int = 1) -> None:
        super().__init__()
        self.network, self.states, self.classes = network, [dict(state) for state in states], classes

    def forward(self, image: Tensor) -> Tensor:
        found = [torch.func.functional_call(self.network, state, (image,)) for state in self.states]
        _check_channels(found[0], self.classes)
        return torch.cat(found, dim=1)


class EnsembleLoader:
    """Replace an evaluator's network by the `Ensemble` of it with the weights in ``load_path``.

    Takes the place of MONAI's CheckpointLoader. ``load_path`` is several files, ``a.pt,b.pt``;
    ``load_dict`` holds the network, on ``map_location``. InputError for a file that is missing or does not
    hold this network's weights, and for a trainer.
    """

    def __init__(
        self,
        load_path: str,
        load_dict: Mapping[str, nn.Module],
        map_location: torch.device | None = None,
        classes: int = 1,
    ) -> None:
        self.paths = weight_files(load_path)
        (self.network,) = load_dict.values()
        self.device, self.classes = map_location, classes

    def __call__(self, engine: Engine) -> None:
        if not isinstance(engine, Evaluator):
            raise InputError("an ensemble", "cannot be trained", "train its networks one by one")
        states = [read_weights(path, self.network, self.device) for path in self.paths]
        engine.network = Ensemble(self.network, states, self.classes)  # type: ignore[attr-defined]


def read_weights(path: Path, network: nn.Module, device: torch.device | None = None) -> dict[str, Tensor]:
    """The state dict in ``path`` (bare, or under ``model``); InputError if it is not one of ``network``."""
    remedy = "give the model.pt of a training"
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise InputError(path, "there are no such weights", "name files, separated by commas") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        told = f"cannot be read as weights ({type(error).__name__})"
        raise InputError(path, told, remedy) from error
    state = content.get("model", content) if isinstance(content, dict) else {}
    ours = {name: one.shape for name, one in network.state_dict().items()}
    theirs = {name: getattr(one, "shape", None) for name, one in state.items()}
    if ours != theirs:
        name = min(name for name, _ in set(ours.items()) ^ set(theirs.items()))
        wrong = f"holds weights of another network than the configs' (first difference: {name})"
        raise InputError(path, wrong, remedy + " of the same configs")
    return state


def _check_channels(logits: Tensor, expected: int) -> None:
    if logits.shape[1] != expected:
        needed = "one output" if expected == 1 else f"{expected} outputs"
        wrong = f"needs networks of {needed}, this one has {logits.shape[1]}"
        raise InputError("a mean over symmetries or networks", wrong, "use it without mean_variance.json")
