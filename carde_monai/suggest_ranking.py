"""Which fields of unlabelled micrographs a person should annotate next: information and diversity.

A field's information I is the mean over its pixels of the entropy of the calibrated probability, or, where
several predictions disagree, of their mutual information (both in nats; Settles 2009; Gal, Islam &
Ghahramani 2017). Of a set of fields, log det(sqrt(I_i) S_ij sqrt(I_j)) is to be large: a determinantal
point process with I as quality and S as similarity (Kulesza & Taskar 2012; for batches of annotations Biyik
et al. 2019), whose greedy maximum (Chen, Zhang & Zhou 2018) takes one field after the other by
I_i (1 - S_iY S_YY^-1 S_Yi): the information times the share that the fields Y before it do not explain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import pdist
from scipy.special import entr

from carde_monai.info_bar import common_info_bar

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

SAMPLE = 1000  # fields that tell the usual distance
EXPLAINED = 1e-9  # share below which nothing is left but rounding


class Place(NamedTuple):
    """A field: the micrograph's name, its first row and column, and its size, in pixels."""

    micrograph: str
    row: int
    column: int
    height: int
    width: int

    def overlaps(self, other: Place) -> bool:
        """Whether the two fields share a pixel."""
        return (
            self.micrograph == other.micrograph
            and self.row < other.row + other.height
            and other.row < self.row + self.height
            and self.column < other.column + other.width
            and other.column < self.column + self.width
        )

    def cut(self, image: Array) -> Array:
        """The field of a (..., H, W) image of its micrograph."""
        return image[..., self.row : self.row + self.height, self.column : self.column + self.width]


@dataclass(frozen=True)
class Candidate:
    """A field with its mean entropy and mutual information (None with a single prediction), both in nats.

    ``look`` is what `looks` tells of it.
    """

    place: Place
    entropy: float
    mutual_information: float | None
    look: Floats

    @property
    def information(self) -> float:
        """What the field is ranked by: mutual information if there is one, else entropy."""
        return self.entropy if self.mutual_information is None else self.mutual_information


class Choice(NamedTuple):
    """A chosen field and its score: the information that those chosen before it do not explain, in nats."""

    candidate: Candidate
    score: float


def entropy(probability: Array) -> Array:
    """Entropy of carbide or not in nats, pixel by pixel; at most ln 2."""
    return entr(probability) + entr(1 - probability)


def fields(name: str, shape: tuple[int, int], side: int | None) -> list[Place]:
    """The fewest squares of ``side`` pixels that cover an (H, W) micrograph, spread evenly.

    They overlap where ``side`` is no divisor. A micrograph that is shorter gives fields as long as it is;
    without ``side`` the whole is one.
    """
    sides = [length if side is None else min(side, length) for length in shape]
    rows, columns = (
        [round(start) for start in np.linspace(0, length - one, math.ceil(length / one))]
        for length, one in zip(shape, sides, strict=True)
    )
    return [Place(name, row, column, *sides) for row in rows for column in columns]


def candidates(
    name: str, greys: Array, probability: Array, disagreement: Array | None, side: int | None
) -> list[Candidate]:
    """The fields of a micrograph that can be annotated.

    ``greys`` is (2, H, W), uint8 or uint16, ``probability`` and the mutual information ``disagreement``
    (H, W).
    """
    return [
        Candidate(
            place,
            _mean(entropy(place.cut(probability))),
            None if disagreement is None else _mean(place.cut(disagreement)),
            looks(place.cut(greys), place.cut(probability)),
        )
        for place in fields(name, probability.shape, side)
        if _can_be_prepared(place.cut(greys))
    ]


def looks(greys: Array, probability: Array) -> Floats:
    """Mean, standard deviation and mean step between neighbours of both detectors and of the probability.

    Nine numbers of an (2, H, W) field; greys count as shares of the range of their type.
    """
    scale = np.iinfo(greys.dtype).max
    planes = [*(grey.astype(np.float32) / scale for grey in greys), probability]
    return np.array(
        [value for one in planes for value in (_mean(one), float(one.std()), _mean(np.abs(np.diff(one))))]
    )


def choose(pool: Sequence[Candidate], count: int, known: Iterable[Place] = ()) -> list[Choice]:
    """Up to ``count`` fields, the best first; none shares a pixel with another or with a ``known`` one.

    Known fields count as chosen before. Of two equal scores the first in the pool wins.
    """
    if not pool:
        return []
    known, likeness = list(known), _Likeness(pool)
    information = np.array([one.information for one in pool])
    open_ = np.ones(len(pool), bool)
    for index, one in enumerate(pool):
        if any(one.place.overlaps(place) for place in known):
            open_[index] = False
            likeness.explain(index)
    chosen: list[Choice] = []
    while len(chosen) < count and open_.any():
        scores = np.where(open_, information * likeness.left, -np.inf)
        best = int(np.argmax(scores))
        chosen.append(Choice(pool[best], float(scores[best])))
        open_ &= [not one.place.overlaps(pool[best].place) for one in pool]
        likeness.explain(best)
    return chosen


class _Likeness:
    """``left`` is the share of each field that those explained so far do not, by incremental Cholesky.

    The similarity of two fields is half that of their looks, a Gaussian of their distance whose width is the
    median distance, and half whether they are of one micrograph.
    """

    def __init__(self, pool: Sequence[Candidate]) -> None:
        look = np.array([one.look for one in pool])
        spread = look.std(axis=0)
        self.look = (look - look.mean(axis=0)) / np.where(spread > 0, spread, 1)
        self.micrograph = np.array([one.place.micrograph for one in pool])
        distances = pdist(self.look[:: math.ceil(len(pool) / SAMPLE)])
        distances = distances[distances > 0]
        self.width = float(np.median(distances)) if len(distances) else 1.0
        self.left = np.ones(len(pool))
        self.factor: list[Floats] = []

    def explain(self, index: int) -> None:
        """Take account of a field that is chosen."""
        rest = self.left[index]
        if rest < EXPLAINED:
            self.left[index] = 0
            return
        row = self._similarity(index)
        for one in self.factor:
            row -= one[index] * one
        row /= math.sqrt(rest)
        self.factor.append(row)
        self.left = np.maximum(self.left - row**2, 0)
        self.left[index] = 0

    def _similarity(self, index: int) -> Floats:
        squared = ((self.look - self.look[index]) ** 2).sum(axis=1)
        same = self.micrograph == self.micrograph[index]
        return (np.exp(-squared / (2 * self.width**2)) + same) / 2


def _can_be_prepared(greys: Array) -> bool:
    """Whether `prepare` would take a (2, H, W) crop: no info bar in it, and no detector half of one grey."""
    quartiles = np.percentile(greys, (25, 75), axis=(1, 2))
    return bool((quartiles[0] < quartiles[1]).all()) and common_info_bar(list(greys))[0] == 0


def _mean(values: Array) -> float:
    return float(values.mean(dtype=np.float64))
