"""Memory that stays flat over a folder of frames."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Give freed memory back to the system, where the C library (glibc) keeps it.

    The arrays of a frame are large and end in another order than they began; what glibc keeps between them
    grows with every frame. Does nothing on other systems.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
