"""Carbides in scanning electron micrographs of steel: segmentation, calibration, measurement."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carde_monai.in_memory import segment

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report its use to its makers

__all__ = ["__version__", "segment"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``segment``, when it is asked for: what it needs takes seconds to import."""
    if name == "segment":
        from carde_monai.in_memory import segment

        return segment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
