"""The one detector that every assigner trains."""

from detector.fcos import FCOS
from detector.images import ImageBatch, pad_images
from detector.loss import LossSettings
from detector.postprocess import InferenceSettings

__all__ = ["FCOS", "ImageBatch", "InferenceSettings", "LossSettings", "pad_images"]
