"""ignite handlers that MONAI does not have."""

from carde_monai.handlers.baseline import SimpleITKBaseline
from carde_monai.handlers.classes import ClassReport
from carde_monai.handlers.evaluation import MicrographReport
from carde_monai.handlers.history import History
from carde_monai.handlers.mean_variance import WarmUp
from carde_monai.handlers.measurement import MeasurementComparison, ParticleMeasurement
from carde_monai.handlers.segmentation import SegmentationWriter
from carde_monai.handlers.study import MaskWriter, PooledReliability
from carde_monai.handlers.temperature import TemperatureScaling
from carde_monai.handlers.tracking import MLflowEvaluation, MLflowTraining

__all__ = [
    "ClassReport",
    "History",
    "MLflowEvaluation",
    "MLflowTraining",
    "MaskWriter",
    "MeasurementComparison",
    "MicrographReport",
    "ParticleMeasurement",
    "PooledReliability",
    "SegmentationWriter",
    "SimpleITKBaseline",
    "TemperatureScaling",
    "WarmUp",
]
