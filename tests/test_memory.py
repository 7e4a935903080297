"""Freed memory is kept in a training and given back when asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

# in a process of its own, as the setting stays
SCRIPT = """
import os
import numpy as np
from carde_monai.memory import give_back, keep_freed

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

def grown_by_what_was_freed():
    before = resident()
    array = np.ones(12_500_000)  # 100 MB
    del array
    return resident() - before

print(grown_by_what_was_freed())
keep_freed()
print(grown_by_what_was_freed())
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    by_default, kept, given_back = map(float, told.split())
    assert by_default < 10 and kept > 90 and given_back > 90
