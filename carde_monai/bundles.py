"""Running the bundle's configs from Python: the same call that ``python -m monai.bundle run`` makes."""

from __future__ import annotations

import logging
import shlex
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fire.parser import DefaultParseValue
from ignite.engine import Engine
from monai.apps import get_logger
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.engines import SupervisedEvaluator, SupervisedTrainer

from carde_monai.bundle_checks import check_overrides, check_places, explained
from carde_monai.errors import InputError
from carde_monai.locking import claimed
from carde_monai.replacing import PART
from carde_monai.signals import on_sigterm

logger = logging.getLogger("carde_monai")

# The weights that come with the package saw a range of pixel sizes; those trained further see the pixels of
# their training.
PACKAGED_OVERLAYS = ("spacing",)


def with_packaged(overlays: Sequence[str]) -> list[str]:
    """Overlays with which the packaged weights infer: those that they want, and ``overlays``, each once."""
    return list(dict.fromkeys([*PACKAGED_OVERLAYS, *overlays]))


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
        try:
            _copy_packaged(path)
        except OSError as error:
            wrong = f"cannot be made ({error.strerror or error})"
            raise InputError(path, wrong, "check the path, its permissions and the disk") from error
        logger.info("copied the packaged bundle to %s", path)
    return path


def _copy_packaged(path: Path) -> None:
    parent = path.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PART, dir=parent) as folder:
        copy = Path(folder, path.name)
        shutil.copytree(
            packaged_bundle(), copy, ignore=shutil.ignore_patterns("*.pt", "*.sha256", "*.json.bak", "eval")
        )
        for stale in (copy / "models").glob("*.json"):  # the calibration of the weights left behind
            stale.unlink()
        copy.rename(path)


def config_files(bundle: Path, configs: Sequence[str]) -> list[str]:
    """Paths of the configs of these names; a name that ends in ``.json`` is a path itself.

    Raises:
        InputError: one of them is missing.
    """
    known = ", ".join(sorted(path.stem for path in (bundle / "configs").glob("*.json")))
    files = []
    for name in configs:
        file = Path(name) if name.endswith(".json") else bundle / "configs" / f"{name}.json"
        if not file.is_file():
            remedy = "--bundle must name the folder of a bundle, which carde-monai train makes"
            if not bundle.is_dir():
                raise InputError(bundle, "there is no such bundle", remedy)
            raise InputError(file, "there is no such file", f"choose from {known}" if known else remedy)
        files.append(str(file))
    return files


def run(bundle: Path, configs: Sequence[str], overrides: Mapping[str, Any], training: bool) -> ConfigWorkflow:
    """Print the equivalent ``monai.bundle`` command, check the overrides, then initialize, run and finalize.

    Args:
        bundle: root folder of the bundle.
        configs: names in ``configs/`` without extension, the base first, overlays after it.
        overrides: config ids and their values.
        training: whether the configs describe a training workflow (else inference), as ``monai.bundle`` asks.

    Raises:
        InputError: a config is missing, an override names nothing in the configs or does not fit there, the
            weights are missing or another network's, a training diverges.
        KeyboardInterrupt: Ctrl-C or SIGTERM; that of a training tells how to go on.
    """
    files = config_files(bundle, configs)
    overrides = {"bundle_root": str(bundle), **overrides}
    # a,b is a tuple on the command line
    overrides = {key: list(one) if isinstance(one, tuple) else one for key, one in overrides.items()}
    check_overrides(files, overrides)
    logger.info("%s", command(files, overrides))
    _quiet()
    workflow = ConfigWorkflow(
        config_file=files,
        logging_file=False,  # logging is the program's own; configs/logging.conf is for monai.bundle
        workflow_type="train" if training else "infer",
        **overrides,
    )
    # SIGTERM ends a run as Ctrl-C does
    with on_sigterm(signal.default_int_handler), explained(workflow.parser, overrides):
        check_places(workflow.parser)
        with claimed(*_written(workflow.parser, configs)):
            workflow.initialize()
            workflow.run()
            workflow.finalize()
    return workflow


def _written(parser: ConfigParser, configs: Sequence[str]) -> list[Path]:
    """The folders that a run writes to; an evaluation only reads its weights."""
    names = ("output_dir",) if "evaluate" in configs else ("output_dir", "ckpt_dir")
    return [Path(str(parser.get_parsed_content(name))) for name in names if name in parser]


def _quiet() -> None:
    """Leave an exception to whoever catches it; ignite and MONAI would log it too, with tracebacks."""
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it warns of logging_file=False
    engines = (SupervisedTrainer, SupervisedEvaluator)
    loggers = [logging.getLogger(f"{Engine.__module__}.{engine.__name__}") for engine in engines]
    # MONAI's own function, for it gives a logger its handler only when it makes it
    for one in (*loggers, get_logger("monai.handlers.StatsHandler")):
        one.addFilter(_is_no_error)


def _is_no_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def command(files: Sequence[str], overrides: Mapping[str, Any]) -> str:
    """The shell command that does the same through MONAI alone."""
    settings = {"config_file": files[0] if len(files) == 1 else list(files), **overrides}
    words = ["python -m monai.bundle run"]
    for key, value in settings.items():
        # MONAI's command line is Fire, too, and would make a number of a folder 2024 and a flag of -x
        plain = isinstance(value, str) and DefaultParseValue(value) == value and value[:1] != "-"
        text = value if plain else repr(value)
        # double quotes around Python's single ones: readable, and what the documentation shows
        words += [
            f"--{key}",
            f'"{text}"' if "'" in text and not set(text) & set('"$`\\!') else shlex.quote(text),
        ]
    return " ".join(words)
