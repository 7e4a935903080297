"""Freed memory: given back after each frame of a folder, kept between the steps of a training."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# of glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def give_back() -> None:
    """Give freed memory back to the system, where the C library (glibc) keeps it.

    The arrays of a frame are large and end in another order than they began; what glibc keeps between them
    grows with every frame. Does nothing on other systems.
    """
    _call("malloc_trim", 0)


def keep_freed() -> None:
    """Keep freed memory for the next request instead of giving it back, where the C library is glibc.

    Each step of a training frees large arrays and needs the same again; of what the system hands out anew it
    clears every page first. Holds for the rest of the process; `give_back` still does. Does nothing on other
    systems.
    """
    _call("mallopt", M_MMAP_MAX, 0)
    _call("mallopt", M_TRIM_THRESHOLD, -1)


def _call(name: str, *arguments: int) -> None:
    function: Any = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)
