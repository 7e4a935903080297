"""What a hyperparameter search varies: any ids of the bundle's configs, each with a range or with choices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from carde_monai.bundle_checks import check_overrides
from carde_monai.errors import InputError

Number = int | float
RANGE = {"low", "high", "log", "step", "type"}


@dataclass(frozen=True)
class Parameter:
    """One config id and the values that it may take.

    Optuna stores only numbers, texts, truth values and None; another choice (a list of features, a transform)
    is stored as its JSON text, and ``meaning`` leads back.
    """

    id: str
    distribution: BaseDistribution
    meaning: Mapping[str, Any] = field(default_factory=dict)

    def suggest(self, trial: Trial) -> Any:
        """The value for this trial, as the config takes it."""
        kind = self.distribution
        if isinstance(kind, CategoricalDistribution):
            return self.value(trial.suggest_categorical(self.id, kind.choices))
        if isinstance(kind, IntDistribution):
            return trial.suggest_int(self.id, kind.low, kind.high, step=kind.step, log=kind.log)
        assert isinstance(kind, FloatDistribution)
        return trial.suggest_float(self.id, kind.low, kind.high, step=kind.step, log=kind.log)

    def value(self, stored: Any) -> Any:
        """What the config takes for the value that Optuna stores."""
        return self.meaning.get(stored, stored) if isinstance(stored, str) else stored

    def extremes(self) -> list[Any]:
        """All choices, or both ends of the range."""
        if isinstance(self.distribution, CategoricalDistribution):
            return [self.value(choice) for choice in self.distribution.choices]
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        return [self.distribution.low, self.distribution.high]

    @property
    def log(self) -> bool:
        """Whether the range is one of ratios."""
        return bool(getattr(self.distribution, "log", False))


def read_space(space: Any) -> list[Parameter]:
    """The parameters that a search space describes.

    Args:
        space: a mapping from config ids to ``{"low", "high"[, "log", "step", "type"]}`` (both ends included;
            the type "int" or "float" is that of the ends unless given) or ``{"choices": [...]}``.

    Raises:
        InputError: names the id and what is wrong with its range.
    """
    if not isinstance(space, Mapping) or not space:
        remedy = 'give a mapping such as {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": true}}'
        raise InputError("search_space", "names nothing to search", remedy)
    return [_parameter(str(name), described) for name, described in space.items()]


def check_space(parameters: Sequence[Parameter], files: Sequence[str]) -> None:
    """Raise InputError if the configs ``files`` have no such id, or another kind of value there."""
    for parameter in parameters:
        for value in parameter.extremes():
            try:
                check_overrides(files, {parameter.id: value})
            except InputError as mistake:
                raise InputError("search_space", str(mistake)) from None


def _parameter(name: str, described: Any) -> Parameter:
    try:
        if not isinstance(described, Mapping):
            raise ValueError("is no mapping")
        if "choices" in described:
            return _choices(name, described)
        return Parameter(name, _range(described))
    except ValueError as error:
        remedy = 'give {"low": .., "high": ..}, with "log", "step" or "type" if need be, or {"choices": [..]}'
        raise InputError(f"search_space: {name}", str(error).rstrip("."), remedy) from None


def _choices(name: str, described: Mapping[str, Any]) -> Parameter:
    choices = described["choices"]
    if len(described) > 1:
        raise ValueError("has choices and something else")
    if not isinstance(choices, list | tuple) or not choices:
        raise ValueError("has no list of choices")
    stored = [one if _storable(one) else json.dumps(one) for one in choices]
    meaning = {key: one for key, one in zip(stored, choices, strict=True) if not _storable(one)}
    return Parameter(name, CategoricalDistribution(stored), meaning)


def _storable(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _range(described: Mapping[str, Any]) -> BaseDistribution:
    unknown = sorted(set(described) - RANGE)
    if unknown:
        raise ValueError(f"has an unknown part {', '.join(unknown)}")
    parts = ("low", "high", "step")
    numbers: dict[str, Any] = {one: described[one] for one in parts if described.get(one) is not None}
    if not {"low", "high"} <= set(numbers) or not all(map(_is_number, numbers.values())):
        raise ValueError("needs numbers for low and high, and for step if there is one")
    low, high, step = numbers["low"], numbers["high"], numbers.get("step")
    if low > high:
        raise ValueError(f"low {low} is above high {high}")
    whole = all(isinstance(one, int) for one in numbers.values())
    kind = described.get("type", "int" if whole else "float")
    if kind not in ("int", "float"):
        raise ValueError(f'type {kind} is neither "int" nor "float"')
    log = bool(described.get("log", False))
    if kind == "float":
        return FloatDistribution(low, high, log=log, step=step)
    if not all(float(one).is_integer() for one in numbers.values()):
        raise ValueError("is of type int, but its numbers are not whole")
    return IntDistribution(int(low), int(high), log=log, step=int(step or 1))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
