"""Carbides in scanning electron micrographs of steel: segmentation, calibration, measurement."""

__version__ = "0.1.0"
