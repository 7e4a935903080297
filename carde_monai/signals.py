"""What is done when the system asks a run to end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def on_sigterm(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Give SIGTERM, which batch systems send before they kill, to ``handler`` where nobody else handles it.

    Python takes handlers in the main thread only; in others nothing changes.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
