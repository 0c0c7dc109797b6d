"""How well the detector's own prediction at a location fits a box: the class score and the overlap."""

from __future__ import annotations

from torch import Tensor

from assigners.contract import Predictions, Targets
from assigners.ops.boxes import aligned_iou
from assigners.ops.segments import at


def predicted_overlap(targets: Targets, predictions: Predictions, gt: Tensor, cell: Tensor) -> Tensor:
    """IoU of the predicted box with the box, per pair, float32 in [0, 1]; arguments and NaN as below."""
    predicted = at(predictions.boxes.flatten(0, 1), cell).float()
    return aligned_iou(predicted, at(targets.boxes, gt)).nan_to_num(nan=0.0)


def score_and_overlap(targets: Targets, predictions: Predictions, gt: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of the box's class, and IoU of the predicted box with it, per pair.

    Args:
        gt: box of each pair; cell: cell of the batch, image * R + location; shapes that broadcast to ``[...]``.

    Returns:
        Two ``[...]`` float64 in [0, 1]; 0 where a diverging detector predicts no number.
    """
    own = at(predictions.logits.flatten(), cell * predictions.logits.shape[-1] + at(targets.labels, gt))
    # float64, because the last bit of a float32 exponential depends on where in a list the number stands: equal pairs
    # would stop being ties, and one image would be assigned otherwise in another batch.
    return own.double().sigmoid().nan_to_num(nan=0.0), predicted_overlap(targets, predictions, gt, cell).double()
