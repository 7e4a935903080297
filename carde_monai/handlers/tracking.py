"""Handlers that record a training, its calibration and its evaluation as one MLflow run."""

from __future__ import annotations

import glob
import logging
import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
from ignite.engine import Engine
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from mlflow.utils.time import get_current_time_millis
from monai.utils import convert_to_numpy

from carde_monai import provenance, tracking
from carde_monai.errors import InputError
from carde_monai.handlers.history import EpochFigures, scalars
from carde_monai.signals import on_sigterm
from carde_monai.tracking_system import SystemMetrics

if TYPE_CHECKING:
    from carde_monai.registry import Registration

logger = logging.getLogger("carde_monai")


class RunHandler:
    """Holds an MLflow run open from the beginning of ``engine.run`` to its end, however it ends.

    The base of `MLflowTraining` and `MLflowEvaluation`, which say what is recorded. Only rank 0 records.
    """

    def __init__(self, tracking_uri: str | None, run_file: str | Path, experiment_name: str) -> None:
        self.tracking_uri = tracking.store_address(tracking_uri) if tracking_uri else None
        self.run_file, self.experiment_name = Path(run_file), experiment_name
        self.config, self.parser = tracking.running_config(), tracking.running_parser()
        self.stage, self.folder, self.run_name, self.resume = "training", "", "", False
        self.datalist: Path | None = None
        self.artifacts: Sequence[str | Path] = ()
        self.tags: Mapping[str, str] = {}
        self.run: tracking.MLflowRun | None = None

    def attach(self, engine: Engine) -> None:
        """Wrap ``engine.run``: the run ends FINISHED, FAILED (exception) or KILLED (Ctrl-C, SIGTERM).

        The run of a process that was killed outright is marked FAILED by the next one with the same run file,
        or by ``carde-monai sync-tracking``.

        ignite's events cannot tell: MONAI's handlers of EXCEPTION_RAISED raise, so that those attached
        later are never called, and a handler that does not raise there swallows the exception.
        """
        if self.tracking_uri is None:
            return
        run = engine.run

        def tracked(*args: Any, **kwargs: Any) -> Any:
            if idist.get_rank() != 0:
                return run(*args, **kwargs)
            status, error = "FAILED", ""
            try:
                with sigterm_raises():
                    self._open(engine)
                    result = run(*args, **kwargs)
                    self.finished(engine)
                    status = "FINISHED"
                    return result
            except BaseException as exception:
                told = isinstance(exception, KeyboardInterrupt | Terminated)
                status = "KILLED" if told else "FAILED"
                error = f"{type(exception).__name__}: {exception}"[:1000]
                raise
            finally:
                self._close(status, error)

        engine.run = tracked  # type: ignore[method-assign]

    def finished(self, engine: Engine) -> None:
        """Record what there is only when the engine has run to its end."""

    def _open(self, engine: Engine) -> None:
        run = self.run = tracking.MLflowRun(str(self.tracking_uri), self.experiment_name, self.run_file)
        data = tracking.dataset_facts(self.datalist) if self.datalist else {}
        facts = provenance.environment() | data
        facts |= tracking.network_facts(
            getattr(engine, "network", None), getattr(engine.state, "device", None)
        )
        # a calibration's or an evaluation's config is another
        changes = tracking.changed(self.config) if self.config and not self.folder else {}
        commit, command = facts["run/git_commit"], "run/command"
        name = self.datalist.absolute().parent.name if self.datalist else ""
        note = tracking.description(facts, name, changes)
        tags = {"stage": self.stage, MLFLOW_RUN_NOTE: note, **self.tags}
        if commit:
            tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
        # the command differs always, and the description tells it
        resolved = self.parser.ref_resolver.resolved_content if self.parser is not None else {}
        params = tracking.compared(self.config, resolved, changes)
        params |= {key: value for key, value in facts.items() if key != command}
        run_name = self.run_name or self._new_name(facts.get("network/class", ""), changes)
        run.open(run_name, tags, params, self.resume)
        if self.config:
            run.json(self.config, f"{self.folder}/config.json".lstrip("/"))
        if self.datalist and data:
            run.dataset(data, self.datalist, self.stage)

    def _new_name(self, network: str, changes: Mapping[str, str]) -> str:
        # MLflow's table shows some twenty characters, and the time beside them: what differs comes first
        known = filter(None, (self.folder, network, time.strftime("%m%d-%H%M%S")))
        return tracking.short_name(changes, " ".join(known))

    def _close(self, status: str, error: str) -> None:
        if self.run is not None:
            found, missing = find_files(self.artifacts)
            if missing and status == "FINISHED":
                logger.warning("MLflow: there is no artifact %s", ", ".join(missing))
            for path in found:
                self.run.file(path, self.folder)
                if path.suffix == ".png":
                    self.run.picture(path, f"{self.stage}/{path.stem}")
            self.run.close(status, error)
        self.run = None


class MLflowTraining(RunHandler):
    """Records a training as a new MLflow run: what was trained with what, figures of every epoch, files.

    Attach it to the trainer, on all ranks. Parameters: settings of the bundle's config (`compared`), network,
    device, versions, git commit, data set (`dataset_facts`); ``config.json`` has the whole config. Metrics:
    ``by_epoch/``, `EpochFigures`, step = epoch; ``best/``, the validation of the weights that are kept;
    ``system/``, the machine (`SystemMetrics`).

    Args:
        tracking_uri: ``sqlite:///<folder>/mlflow.db`` (artifacts in ``<folder>/mlartifacts``), the
            ``http://`` address of a server, or another that MLflow knows; None or "" switches MLflow off.
            It wins over MLFLOW_TRACKING_URI. A server that does not answer costs one warning, and at most
            ten seconds at the end; what it did not get is kept beside ``run_file``
            (`tracking_journal.Journal`).
        run_file: JSON file, beside the model, that tells `MLflowEvaluation` which run to continue.
        evaluator: its metrics are recorded in the epochs in which it ran.
        datalist: ``datalist.json`` of the data set.
        artifacts: files, directories and glob patterns, uploaded at the end; one warning tells the missing.
        experiment_name: MLflow experiment, created if need be.
        run_name: default: settings that were changed, network, month, day and time. If taken, with a suffix.
        tags: of the run, such as mlflow.parentRunId, which nests it in another.
        resume: continue the run that ``run_file`` tells, as a training that is resumed should.

    Raises:
        InputError: MLflow does not know the kind of ``tracking_uri``.
    """

    def __init__(
        self,
        tracking_uri: str | None,
        run_file: str | Path,
        evaluator: Engine | None = None,
        datalist: str | Path | None = None,
        artifacts: Sequence[str | Path] = (),
        experiment_name: str = "carde_monai",
        run_name: str | None = None,
        tags: Mapping[str, str] | None = None,
        resume: bool = False,
    ) -> None:
        super().__init__(tracking_uri, run_file, experiment_name)
        self.tags, self.resume = tags or {}, resume
        self.datalist, self.artifacts = Path(datalist) if datalist else None, artifacts
        self.evaluator, self.run_name = evaluator, run_name or ""
        self._first = True
        self._system: SystemMetrics | None = None
        self._waiting: list[tuple[dict[str, float], int, int]] = []

    def attach(self, engine: Engine) -> None:
        super().attach(engine)
        if self.tracking_uri is not None:
            EpochFigures(self, self.evaluator).attach(engine)

    def _open(self, engine: Engine) -> None:
        super()._open(engine)
        if self.run is not None:
            self._system = SystemMetrics(self._measured)
            self._system.start()

    def _measured(self, values: dict[str, float], step: int) -> None:
        """Record figures of the machine, not before the first epoch's: MLflow compares runs by the first."""
        self._waiting.append((values, step, get_current_time_millis()))
        if not self._first:
            self._send_waiting()

    def _send_waiting(self) -> None:
        while self.run is not None and self._waiting:
            values, step, moment = self._waiting.pop(0)
            self.run.metrics(values, step, time=moment)

    def _close(self, status: str, error: str) -> None:
        if self._system is not None:
            self._system.stop()
        self._send_waiting()
        super()._close(status, error)

    def __call__(self, engine: Engine, figures: dict[str, float]) -> None:
        """Record the figures of an epoch."""
        if self.run is not None:
            self._best(engine.state.epoch)
            values = {f"by_epoch/{name}": value for name, value in figures.items() if name != "epoch"}
            # killed behind this and before it was saved, a training that is resumed does the epoch again
            self.run.metrics(values, step=engine.state.epoch, once=self._first and self.resume)
            self._first = False

    def _best(self, epoch: int) -> None:
        """Record the figures of the weights that are kept, if this is their epoch.

        MLflow's tables and bars show the last value of a metric, which is that of no weights that are kept.
        """
        state: Any = getattr(self.evaluator, "state", None)
        if self.run is not None and getattr(state, "best_metric_epoch", None) == epoch:
            best = {f"best/{name}": value for name, value in scalars(state.metrics).items()}
            self.run.metrics(best | {"best/epoch": float(epoch)})


class MLflowEvaluation(RunHandler):
    """Records a calibration or an evaluation in the run of its training, in a new run if that is not found.

    Attach it to the evaluator. Metrics: the scalars of ``engine.state.metrics`` as ``<stage>/<name>``;
    config and artifacts go to the folder ``<stage>``; parameters are recorded in a new run only. The run is
    open meanwhile and ends with the status of this stage. The other arguments and errors are those of
    `MLflowTraining`.

    Args:
        stage: for example "calibration" or "evaluation".
        registration: registers the evaluated bundle as a model, if the engine runs to its end.

    Raises:
        InputError: there is something to register, and MLflow is switched off.
    """

    def __init__(
        self,
        tracking_uri: str | None,
        run_file: str | Path,
        stage: str,
        datalist: str | Path | None = None,
        artifacts: Sequence[str | Path] = (),
        experiment_name: str = "carde_monai",
        registration: Registration | None = None,
    ) -> None:
        super().__init__(tracking_uri, run_file, experiment_name)
        if registration is not None and self.tracking_uri is None:
            wrong = "needs MLflow, which is switched off"
            raise InputError(f"--register {registration.name}", wrong, "give a --tracking_uri")
        self.registration = registration
        self.datalist, self.artifacts = Path(datalist) if datalist else None, artifacts
        self.stage = self.folder = stage
        self.resume = True

    def finished(self, engine: Engine) -> None:
        if self.run is not None:
            metrics = scalars(engine.state.metrics)
            self.run.metrics({f"{self.stage}/{name}": value for name, value in metrics.items()})
            self.run.tag("stage", self.stage)
            if self.registration is not None:
                frame = convert_to_numpy(engine.state.batch[0]["raw"])
                self.run.model(self.registration.save(self.config, frame), self.registration.name)


class Terminated(SystemExit):
    """SIGTERM came, as batch systems send it before they kill: exit status 143, as a shell has it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def sigterm_raises() -> AbstractContextManager[None]:
    """Make an exception, `Terminated`, of SIGTERM where nobody else handles it."""
    here = os.getpid()

    def leave(*_: object) -> None:
        if os.getpid() == here:
            raise Terminated
        os._exit(128 + signal.SIGTERM)  # a loader's worker, which has been forked and is no training

    return on_sigterm(leave)


def find_files(patterns: Iterable[str | Path]) -> tuple[list[Path], list[str]]:
    """Files and directories that the names and glob patterns stand for, and the patterns that have none."""
    found: dict[Path, None] = {}
    missing = []
    for pattern in map(str, filter(None, patterns)):
        names = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))
        paths = [Path(name) for name in names if Path(name).exists()]
        found.update(dict.fromkeys(paths))
        if not paths:
            missing.append(pattern)
    return list(found), missing
