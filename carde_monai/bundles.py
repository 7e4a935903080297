"""Running the bundle's configs from Python: the same call that ``python -m monai.bundle run`` makes."""

from __future__ import annotations

import difflib
import logging
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from carde_monai.errors import InputError

logger = logging.getLogger("carde_monai")


def packaged_bundle() -> Path:
    """Folder of the bundle that came with this installation (wheel, or a checkout installed in place)."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "bundle", package.parent / "bundle"):
        if (candidate / "configs" / "metadata.json").is_file():
            return candidate
    raise InputError(package, "the installation carries no bundle", "reinstall carde-monai or give --bundle")


def working_bundle(path: str | Path) -> Path:
    """The bundle at ``path``, for writing; a copy of the packaged one, without weights, if there is none."""
    path = Path(path)
    if path.exists() and not (path / "configs" / "train.json").is_file():
        raise InputError(path, "is not a bundle (no configs/train.json)", "name a bundle or a new folder")
    if not path.exists():
        shutil.copytree(packaged_bundle(), path, ignore=shutil.ignore_patterns("*.pt", "*.json.bak", "eval"))
        for stale in (path / "models").glob("*.json"):  # the calibration of the weights left behind
            stale.unlink()
        logger.info("copied the packaged bundle to %s", path)
    return path


def run(bundle: Path, configs: Sequence[str], overrides: Mapping[str, Any], training: bool) -> ConfigWorkflow:
    """Print the equivalent ``monai.bundle`` command, check the overrides, then initialize, run and finalize.

    Args:
        bundle: root folder of the bundle.
        configs: names in ``configs/`` without extension, the base first, overlays after it.
        overrides: config ids and their values.
        training: whether the configs describe a training workflow (else inference), as ``monai.bundle`` asks.

    Raises:
        InputError: a config is missing, or an override names nothing in the configs.
    """
    files = [str(bundle / "configs" / f"{name}.json") for name in configs]
    for file in files:
        if not Path(file).is_file():
            raise InputError(file, "not found", "--bundle must name the root folder of a bundle")
    overrides = {"bundle_root": str(bundle), **overrides}
    check_overrides(files, overrides)
    logger.info("%s", command(files, overrides))
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it warns of logging_file=False
    workflow = ConfigWorkflow(
        config_file=files,
        logging_file=False,  # the logging of a program is the program's; configs/logging.conf is for monai.bundle
        workflow_type="train" if training else "infer",
        **overrides,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


def command(files: Sequence[str], overrides: Mapping[str, Any]) -> str:
    """The shell command that does the same through MONAI alone."""
    settings = {"config_file": files[0] if len(files) == 1 else list(files), **overrides}
    words = ["python -m monai.bundle run"]
    for key, value in settings.items():
        text = value if isinstance(value, str) else repr(value)
        # double quotes around Python's single ones: readable, and what the documentation shows
        words += [
            f"--{key}",
            f'"{text}"' if "'" in text and not set(text) & set('"$`\\') else shlex.quote(text),
        ]
    return " ".join(words)


def check_overrides(files: Sequence[str], overrides: Mapping[str, Any]) -> None:
    """Reject an override that names nothing: MONAI would accept it in silence.

    Raises:
        InputError: names the unknown id and the nearest known ones.
    """
    parser = ConfigParser()
    parser.read_config(list(files))
    for key in overrides:
        if key not in parser:
            known = list(_ids(parser.get()))
            near = difflib.get_close_matches(key.replace("::", "#"), known, n=3, cutoff=0.6)
            hint = (
                f"did you mean --{' or --'.join(near)}?" if near else "see configs/train.json for the names"
            )
            raise InputError(f"--{key}", "is no setting of this bundle", hint)


def _ids(config: Any, prefix: str = "") -> Iterator[str]:
    """All addressable ids of a config, outer before inner."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield f"{prefix}{key}"
            yield from _ids(value, f"{prefix}{key}#")
