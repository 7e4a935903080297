"""Runs a command and writes its seconds and peak memory: ``python child.py RESULT LOG COMMAND...``.

A process of its own, small: Linux counts the memory of the process that starts a command as the command's
(ru_maxrss survives exec), and the benchmark itself is large.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

INTERVAL_S = 0.5


def main(result: str, log: str, *command: str) -> None:
    """Run ``command``, its output to ``log``; ``result`` gets seconds, peak memory in MB and exit status."""
    start = time.perf_counter()
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        total: list[float] = [0.0]
        threading.Thread(target=_watch, args=(process.pid, total), daemon=True).start()
        _, status, usage = os.wait4(process.pid, 0)
    measured = {
        "seconds": time.perf_counter() - start,
        "peak_mb": usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024),
        "tree_peak_mb": total[0],
        "status": os.waitstatus_to_exitcode(status),
    }
    Path(result).write_text(json.dumps(measured), encoding="utf-8")


def _watch(pid: int, total: list[float]) -> None:
    """Keep the largest sum of the memory of a process and its workers, shared pages counted once."""
    while Path(f"/proc/{pid}").exists():
        processes = _tree(pid)
        # a process alone is measured exactly when it ends
        if len(processes) > 1:
            total[0] = max(total[0], sum(map(_megabytes, processes)))
        time.sleep(INTERVAL_S)


def _tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        try:
            for children in Path(f"/proc/{one}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        except OSError:  # it has ended meanwhile
            continue
    return found


def _megabytes(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:")), 0.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
