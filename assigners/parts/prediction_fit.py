"""How well the detector's own prediction at a location fits a box: the class score and the overlap."""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.contract import Predictions, Targets
from assigners.ops.boxes import aligned_iou
from assigners.ops.segments import at


def score_and_overlap(targets: Targets, predictions: Predictions, gt: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of the box's class, and IoU of the predicted box with it, per pair.

    Args:
        gt: box of each pair; cell: cell of the batch, image * R + location; shapes that broadcast to ``[...]``.

    Returns:
        Two ``[...]`` float64 in [0, 1]; 0 where a diverging detector predicts no number.
    """
    channels = predictions.logits.shape[-1]
    own = at(predictions.logits.reshape(-1), cell * channels + at(targets.labels, gt))
    overlap = aligned_iou(at(predictions.boxes.reshape(-1, 4), cell).float(), at(targets.boxes, gt))
    # float64, because the last bit of a float32 exponential depends on where in a list the number stands: equal pairs
    # would stop being ties, and one image would be assigned otherwise in another batch.
    return torch.nan_to_num(own.double().sigmoid(), nan=0.0), torch.nan_to_num(overlap, nan=0.0).double()
