"""The one detector that every assigner trains."""

from detector.fcos import FCOS, InferenceSettings
from detector.images import ImageBatch, pad_images
from detector.loss import LossSettings

__all__ = ["FCOS", "ImageBatch", "InferenceSettings", "LossSettings", "pad_images"]
