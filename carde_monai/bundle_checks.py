"""What MONAI leaves unchecked before it runs a bundle, and what its wrapped exceptions mean to a user."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import pickle
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from carde_monai.errors import InputError, user_mistake
from carde_monai.nifti import damage
from carde_monai.provenance import weight_files

ROUTINE = {"bundle_root", "dataset_dir", "output_dir", "detectors", "pixel_size"}  # given in every run


def check_overrides(files: Sequence[str], overrides: Mapping[str, Any]) -> None:
    """Reject an override that names nothing, which MONAI would accept in silence, or is of the wrong kind.

    Raises:
        InputError: names the unknown id and the nearest known ones, or the kind of value that belongs there.
    """
    parser = ConfigParser()
    parser.read_config(list(files))
    for key, value in overrides.items():
        if key not in parser:
            near = difflib.get_close_matches(key.replace("::", "#"), _ids(parser.get()), n=3, cutoff=0.6)
            remedy = f"see configs/{Path(files[0]).name} for the names"
            if near:
                remedy = f"did you mean --{' or --'.join(near)}?"
            raise InputError(f"--{key}", "is no setting of this bundle", remedy)
        wanted = _wanted(value, parser[key], _least(key))
        if wanted:
            remedy = f"the configs have {json.dumps(parser[key])}"
            raise InputError(f"--{key} {value}", f"should be {wanted}", remedy)


def check_places(parser: ConfigParser) -> None:
    """Find missing weights and folders that cannot be written to before hours of work, not after them.

    Raises:
        InputError: there are no ``weights``, or ``output_dir`` or ``ckpt_dir`` is no folder.
    """
    for weights in _weights(parser):
        if not weights.is_file():
            remedy = "train first (carde-monai train), or name others with --bundle or --weights"
            raise InputError(weights, "there are no such weights", remedy)
        if not zipfile.is_zipfile(weights):  # what torch.save writes
            raise InputError(weights, "holds no weights, or is cut off", "copy it again, or train anew")
    for name in ("output_dir", "ckpt_dir"):
        if name in parser:
            _check_writable(Path(str(parser.get_parsed_content(name))))


@contextlib.contextmanager
def explained(parser: ConfigParser, overrides: Mapping[str, Any]) -> Iterator[None]:
    """Say which of the user's files or overrides made MONAI or torch fail inside; any other error passes.

    Raises:
        InputError: the weights are another network's, an image is damaged, the disk is full, an override
            does not fit.
    """
    try:
        yield
    except Exception as error:
        if user_mistake(error) is not None:
            raise
        mistake = (
            _weights_mistake(parser)
            or _damaged_image(parser, error)
            or _unwritten(parser, error)
            or _unfit(parser, overrides, error)
        )
        if mistake is None:
            raise
        raise mistake from error


def _ids(config: Any, prefix: str = "") -> Iterator[str]:
    """All addressable ids of a config, outer before inner."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield f"{prefix}{key}"
            yield from _ids(value, f"{prefix}{key}#")


def _least(key: str) -> int | None:
    """The settings at the top of the configs are counts and sizes; a seed and a patience may be 0."""
    if "#" in key or "::" in key:
        return None
    return 0 if key == "seed" or key.endswith("patience") else 1


def _wanted(value: Any, default: Any, least: int | None) -> str:
    """What belongs in the place of ``default``, if ``value`` does not; else nothing.

    Expressions may be anything. With ``least``, a number is whole and not below it if the default is whole,
    and above 0 if the default is not.
    """
    if any(isinstance(one, str) and one[:1] in ("$", "@", "%") for one in (value, default)):
        return ""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "True or False"
    if isinstance(value, bool):
        return "followed by its value"  # a name alone is True on the command line
    if isinstance(default, list):
        if not default or not all(isinstance(one, int | float) for one in default):
            return "" if isinstance(value, list | tuple | str) else "a list"
        fits = isinstance(value, list | tuple) and (len(value) == len(default) or least is None)
        fits = fits and not any(_wanted(one, default[0], least) for one in value)
        numbers = "sizes in pixels" if isinstance(default[0], int) else "numbers above 0"
        return "" if fits else "a list of numbers" if least is None else f"{len(default)} {numbers}"
    if isinstance(default, int | float):
        number = isinstance(value, int | float)
        if least is None:
            return "" if number else "a number"
        if isinstance(default, float):
            return "" if number and value > 0 else "a number above 0"
        return "" if isinstance(value, int) and value >= least else f"a whole number from {least}"
    return "" if default is None or value is None or isinstance(value, type(default)) else "text"


def _check_writable(folder: Path) -> None:
    """Raise InputError if the folder could not be made or written to; leave nothing behind."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not there.exists():
        raise InputError(
            folder, f"cannot be a folder, the link {there} leads nowhere", "choose another folder"
        )
    if not there.is_dir():
        raise InputError(folder, f"cannot be a folder, {there} is a file", "choose another folder")
    remedy = "choose another folder, or ask for permission"
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(folder, "cannot be written to", remedy)
    try:  # root may do anything, but not on a disk that is full or read-only
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(folder, f"cannot be written to ({error.strerror})", remedy) from error


def _weights(parser: ConfigParser) -> list[Path]:
    """Paths of the weights that the configs load: none, one, or those of an ensemble."""
    weights = parser.get_parsed_content("weights") if "weights" in parser else None
    return [] if weights is None else weight_files(weights)


def _weights_mistake(parser: ConfigParser) -> InputError | None:
    """What is wrong with the weights that the configs load; None if nothing is."""
    try:
        weights = _weights(parser)
    except Exception:  # not the weights are at fault but how they are named
        return None
    return next(filter(None, (_wrong(file, parser) for file in weights)), None)


def _wrong(weights: Path, parser: ConfigParser) -> InputError | None:
    remedy = "give a model.pt as carde-monai train writes it"
    try:
        content = torch.load(weights, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return InputError(weights, "holds program code, which is not run, or no weights", remedy)
    except Exception as error:
        return InputError(weights, f"cannot be read as weights ({_brief(error)})", remedy)
    try:
        expected = parser.get_parsed_content("network_def").state_dict()
    except Exception:  # the network is at fault, not its weights
        return None
    found = content.get("model", content) if isinstance(content, dict) else {}
    if not any(isinstance(one, torch.Tensor) for one in found.values()):
        return InputError(weights, "holds something else than a network's weights", remedy)
    ours, theirs = (_shapes(expected), _shapes(found))
    if ours == theirs:
        return None
    name = min(name for name, _ in ours ^ theirs)
    wrong = f"holds weights of another network than the configs' (first difference: {name})"
    return InputError(weights, wrong, "name the bundle that they were trained with, or train anew")


def _shapes(weights: Mapping[str, Any]) -> set[tuple[str, Any]]:
    return {(name, getattr(one, "shape", None)) for name, one in weights.items()}


def _damaged_image(parser: ConfigParser, error: BaseException) -> InputError | None:
    """The image or label of a prepared data set that made a transform fail, which MONAI does not name."""
    if not any("applying transform" in str(one) for one in _chain(error)):
        return None
    files = sorted(Path(str(parser.get_parsed_content("dataset_dir"))).glob("*/*.nii.gz"))
    return next(filter(None, map(damage, files)), None)


def _unwritten(parser: ConfigParser, error: BaseException) -> InputError | None:
    """That the weights could not be written, which torch does not tell as an OSError."""
    if "ckpt_dir" not in parser or not re.search(
        "iostream error|PytorchStreamWriter", " ".join(map(str, _chain(error)))
    ):
        return None
    folder = str(parser.get_parsed_content("ckpt_dir"))
    return InputError(folder, "the weights cannot be written there, the disk may be full", "make room")


def _unfit(parser: ConfigParser, overrides: Mapping[str, Any], error: Exception) -> InputError | None:
    """That the configs do not work with the overrides; None if there are only those of every run."""
    own = {key: value for key, value in overrides.items() if key not in ROUTINE}
    trainer: Any = parser.ref_resolver.resolved_content.get("train#trainer")
    if not own or (trainer is not None and trainer.state.iteration > 1):  # what has worked so far fits
        return None
    chain = list(_chain(error))
    # MONAI quotes the expression or the component that failed, with the ids in it.
    story = " ".join(map(str, chain))
    guilty = {key: own[key] for key in own if re.search(rf"\b{re.escape(key)}\b", story)} or own
    subject = " ".join(f"--{key} {value}" for key, value in guilty.items())
    remedy = "correct the value; --debug shows where it is used"
    return InputError(subject, f"cannot be used ({_brief(chain[-1])})", remedy)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and its causes, the root last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
