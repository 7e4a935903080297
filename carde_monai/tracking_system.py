"""How busy the machine is while a run is open: processors, memory, disk, network, GPUs."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import time
from collections.abc import Callable
from typing import Any

from mlflow.environment_variables import (
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING,
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
)

INTERVAL = 10.0  # seconds, unless MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says otherwise
LEAST = 0.2  # seconds over which the load of the processors says something
FIRST = 0.5  # seconds until the first measurement; the pauses double from there on


class SystemMetrics:
    """Calls ``record({"system/...": value}, step)`` every ten seconds with what MLflow's monitors measure.

    At first more often, and once more at the end, so that a run of seconds has figures, too; the step counts
    the measurements.

    Needs psutil (and nvidia-ml-py for NVIDIA's GPUs); does nothing without it, or where
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is false. MLflow's own SystemMetricsMonitor asks the server at every
    step and ends, with a warning, when that is silent.
    """

    def __init__(self, record: Callable[[dict[str, float], int], None]) -> None:
        self._record, self._ended = record, threading.Event()
        chosen = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get()
        self._interval = chosen or INTERVAL
        self._first = chosen or FIRST
        switch = MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
        wanted = switch.get() or not switch.is_set()
        self._monitors = _monitors() if wanted else []
        self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)

    def start(self) -> None:
        if self._monitors:
            self._thread.start()

    def stop(self) -> None:
        """Return when nothing will be recorded any more."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        self._measure()  # the load of the processors is counted from here
        step, pause, last = 0, self._first, time.monotonic()
        ended = False
        while not ended:
            ended = self._ended.wait(pause)
            if ended and time.monotonic() - last < LEAST:
                return  # over so short a time the load is anything
            self._record({f"system/{name}": value for name, value in self._measure().items()}, step)
            step, pause, last = step + 1, min(2 * pause, self._interval), time.monotonic()

    def _measure(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for monitor in self._monitors:
            with contextlib.suppress(Exception):  # a counter that this machine does not have
                monitor.collect_metrics()
                found |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return found


def _monitors() -> list[Any]:
    if importlib.util.find_spec("psutil") is None:
        return []
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found: list[Any] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with contextlib.suppress(Exception):  # no GPU of NVIDIA's, or nvidia-ml-py is not installed
        found.append(GPUMonitor())
    return found
