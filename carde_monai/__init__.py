"""Carbides in scanning electron micrographs of steel: segmentation, calibration, measurement."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report its use to its makers

__version__ = "0.1.0"
