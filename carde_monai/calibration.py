"""Temperature scaling of a binary segmentation: histograms of logits, the fit, its figures, the folding."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import torch.nn.functional as F
from monai.utils import convert_to_tensor
from torch import Tensor

from carde_monai.errors import InputError

CHUNK = 1 << 22  # pixels turned to double precision at a time, so that memory does not grow with the frame


@dataclass
class LogitHistogram:
    """Counts and sums of logits by label on a fixed grid: all that the likelihood of sigmoid(z / T) needs.

    A cell is evaluated at the mean of its own logits, so that the error is of second order in ``step``.
    Logits beyond ``limit``, where softplus is straight for any sensible T, share the end cells. ``counts``
    and ``sums`` are (2, cells): 1.3 MB, however many pixels.
    """

    limit: float = 200.0
    step: float = 0.01
    counts: Tensor = field(init=False, repr=False)
    sums: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not (0 < self.step <= self.limit < math.inf):
            raise ValueError(f"a histogram needs 0 < step <= limit, got step {self.step}, limit {self.limit}")
        self.counts = torch.zeros(2, 2 * math.ceil(self.limit / self.step), dtype=torch.float64)
        self.sums = torch.zeros_like(self.counts)

    def update(self, logits: Any, labels: Any) -> None:
        """Add logits and their 0/1 labels, tensors of one shape on any device; ValueError otherwise."""
        logits, labels = (convert_to_tensor(x, track_meta=False).detach() for x in (logits, labels))
        if logits.shape != labels.shape:
            raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} differ in shape")
        if not bool(torch.isfinite(logits).all()):
            raise ValueError("some logits are not finite numbers")
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise ValueError("labels must be 0 or 1")
        for z, y in zip(logits.flatten().split(CHUNK), labels.flatten().split(CHUNK), strict=True):
            self._add(z.cpu().double(), y.cpu() == 1)

    def _add(self, z: Tensor, positive: Tensor) -> None:
        cells = self.counts.shape[1]
        for row, chosen in enumerate((z[~positive], z[positive])):
            cell = ((chosen + self.limit) / self.step).clamp(0, cells - 1).long()
            self.counts[row] += torch.bincount(cell, minlength=cells)
            self.sums[row] += torch.bincount(cell, weights=chosen, minlength=cells)

    def merge(self, other: LogitHistogram) -> LogitHistogram:
        """Add another histogram to this one and return this one; ValueError if the grids differ."""
        if (self.limit, self.step) != (other.limit, other.step):
            raise ValueError("histograms of different grids cannot be merged")
        self.counts += other.counts
        self.sums += other.sums
        return self

    def all_reduce(self) -> LogitHistogram:
        """Add up the histograms of all ranks, on every rank, and return this one."""
        device = self.counts.device
        total = idist.all_reduce(torch.stack([self.counts, self.sums]))
        self.counts, self.sums = torch.as_tensor(total).to(device)
        return self

    def cells(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean logit, label and count of each filled cell, float64; ValueError unless both labels occur."""
        negatives, positives = self.counts.sum(dim=1).tolist()
        if negatives + positives == 0:
            raise ValueError("no pixels were collected")
        if negatives == 0 or positives == 0:
            raise ValueError(f"all {int(negatives + positives)} pixels have the label {int(positives > 0)}")
        label, _ = filled = self.counts.nonzero(as_tuple=True)
        return self.sums[filled] / self.counts[filled], label.double(), self.counts[filled]


@dataclass(frozen=True)
class Fit:
    """A fitted temperature and the mean negative log-likelihood (nats a pixel) before and after."""

    temperature: float
    iterations: int
    nll_before: float
    nll_after: float


@dataclass(frozen=True)
class Reliability:
    """Points of a reliability curve (``predicted``, ``observed``, ``count``) and scores of its pixels."""

    points: list[dict[str, float]]
    ece: float
    brier: float
    nll: float


def fit_temperature(histogram: LogitHistogram) -> Fit:
    """Find the T that minimises the negative log-likelihood of sigmoid(z / T) (Guo et al. 2017, section 4.2).

    log T is optimised by L-BFGS from T = 1, so that T stays positive. Raises ValueError where no finite T
    exists: one label only, every pixel already on the right side of 0 (T -> 0), or logits no better than
    chance (T -> inf).
    """
    z, y, n = histogram.cells()
    if bool((z * (2 * y - 1) > 0).all()):
        raise ValueError("every pixel is classified correctly, so that no temperature is the best")
    if float((n * z * (y - 0.5)).sum()) <= 0:  # slope of the likelihood in 1 / T, at 1 / T = 0
        raise ValueError("the logits are no better than chance, so that no temperature is the best")
    before = float(_nll(z, y, n))
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [log_t], max_iter=100, tolerance_grad=1e-9, tolerance_change=1e-13, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = _nll(z * torch.exp(-log_t), y, n) / before  # of order one, whatever the share of easy pixels
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    temperature = math.exp(log_t.detach().item())
    after = float(_nll(z / temperature, y, n))
    return Fit(temperature, int(optimiser.state[log_t]["n_iter"]), before, after)


def _nll(z: Tensor, y: Tensor, n: Tensor) -> Tensor:
    return -(n * F.logsigmoid(z * (2 * y - 1))).sum() / n.sum()


def reliability(histogram: LogitHistogram, temperature: float = 1.0, bins: int = 20) -> Reliability:
    """Compare predicted probability and observed share of carbide in ``bins`` equal bins of the probability.

    ECE is the count-weighted mean of |observed - predicted| (Naeini et al. 2015), binned as
    ``monai.metrics.CalibrationErrorMetric`` does with one channel: by the probability of the foreground.
    Empty bins have no point. Brier is the mean squared error of the probability. ValueError as in
    ``LogitHistogram.cells``.
    """
    z, y, n = histogram.cells()
    p = torch.sigmoid(z / temperature)
    edges = torch.linspace(0, 1 + torch.finfo(torch.float32).eps, bins + 1, dtype=torch.float64)
    place = torch.bucketize(p, edges[1:]).clamp(max=bins - 1)
    count, predicted, observed = (
        torch.bincount(place, weights=weights, minlength=bins) for weights in (n, n * p, n * y)
    )
    filled = count > 0
    count, predicted, observed = count[filled], predicted[filled], observed[filled]
    rows = zip((predicted / count).tolist(), (observed / count).tolist(), count.tolist(), strict=True)
    return Reliability(
        points=[{"predicted": a, "observed": b, "count": int(c)} for a, b, c in rows],
        ece=float((observed - predicted).abs().sum() / n.sum()),
        brier=float((n * (p - y) ** 2).sum() / n.sum()),
        nll=float(_nll(z / temperature, y, n)),
    )


def read_points(path: str | Path, moment: str = "before") -> list[dict[str, float]]:
    """The reliability points in the ``calibration.json`` of another run, ``before`` or ``after`` its scaling.

    Raises InputError for a file that is missing or is no such record.
    """
    try:
        points = json.loads(Path(path).read_text(encoding="utf-8"))[moment]["points"]
        return [{key: float(one[key]) for key in ("predicted", "observed", "count")} for one in points]
    except FileNotFoundError:
        raise InputError(path, "there is no such file", "calibrate that bundle first") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(path, "holds no reliability points", "give a calibration.json") from None


def fold_temperature(state_dict: dict[str, Any], temperature: float, layer: str) -> dict[str, Any]:
    """Divide weight and bias of the last ``layer`` by T, so that the network's own logits become z / T.

    Of two outputs (mean-variance estimation: f and sigma) only the first is divided. The logit of the mean
    probability is z = f / sqrt(1 + pi sigma² / 8) (MacKay 1992) but for some per cent, so that it becomes
    z / T as well; with sigma / T it would not.

    Returns a new state dict; the other entries are the same tensors. Raises ValueError for a T that is not
    positive and finite, InputError for a layer that the state dict lacks, with the names that it has.
    """
    if not (0 < temperature < math.inf):
        raise ValueError(f"a temperature is a positive number, not {temperature}")
    if f"{layer}.weight" not in state_dict:
        layers = [k[: -len(".weight")] for k, v in state_dict.items() if k.endswith(".weight") and v.ndim > 1]
        known = ", ".join(layers[-6:]) or "none"
        raise InputError(f"layer {layer!r}", "is not in the state dict", f"its last layers are: {known}")
    folded = copy.copy(state_dict)  # unlike dict(), keeps the versions that torch puts beside the entries
    for name in (f"{layer}.weight", f"{layer}.bias"):
        if name in folded:
            folded[name] = torch.cat([folded[name][:1] / temperature, folded[name][1:]])
    return folded
