"""Starting fast: the modules of torch and MONAI are a million objects, and none of them is garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Import heavy modules without garbage collection, which would go over them hundreds of times in vain.

    They are left out of later collections too; whether there are any is as it was before.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
