"""Cascade: positives by the overlap of the predicted box, asked for more and more (Cai and Vasconcelos, "Cascade R-CNN:
Delving into High Quality Object Detection", CVPR 2018).

A hypothesis x learns a box g if it overlaps it enough (equation 5), and the threshold u rises from stage to stage, each
of which classifies and refines what the one before it has left (equations 7 and 8; u = 0.5, 0.6, 0.7):

    y = class of g   if IoU(x, g) >= u,   else background

The shared detector has one head that looks once. Its hypotheses are the boxes that it predicts, and the stages follow
each other in training instead of in the network: u is 0.5 in the first third, then 0.6, then 0.7 (`switch`). What one
threshold has taught is what the next one starts from.

Hypotheses of a box are the predictions at the locations that center sampling allows it (FCOS; `radius`): inside it, so
that its sides can be regressed; near its centre and on the level of its size, as are the anchors that the paper's
proposal network learns an object from (an overlap of 0.7). `radius=0` takes all of the box on that level. A location
whose prediction overlaps several boxes enough learns the one that it overlaps most, the smallest of equal ones.

The paper's first stage begins with proposals of a trained network. Here a box that no prediction overlaps enough learns
from all of its locations that nobody else learns, as in FCOS (`fallback`): at the start that is almost every box. Two
statistics tell what the threshold does alone: `positives_at_threshold`, positives per box before the fall-back, and
`fallback`, the share of boxes without any. They show what becomes of positives that are to vanish exponentially (the
paper's abstract; IQDet's sections 2 and 3.2): `thresholds=0.7` asks for much at once, `fallback=none` leaves such boxes
without a positive.

Departures from the authors, each deliberate:
* one head instead of three, in training and at inference. Nothing is sampled: all hypotheses above the threshold are
  positive and all others negative, instead of a few hundred with a quarter of positives;
* sides are regressed from a location by the shared box loss, not from the hypothesis;
* a hypothesis is compared with the boxes that its location may learn, not with all of the image.
Open: nothing in the paper says when to switch, since its stages are trained together; equal shares are ours.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Literal

from assigners.contract import Assigner, Assignment, HeadInfo, Needs, Predictions, Samples, Step, Targets
from assigners.grid import Grid
from assigners.ops.segments import at, group_sum, marked
from assigners.parts.candidates import centers
from assigners.parts.conflicts import box_rank, keep_smallest, one_box_each
from assigners.parts.negatives import negatives_outside_ignore as negatives
from assigners.parts.prediction_fit import predicted_overlap
from assigners.rules.center import CenterSampling


class Cascade(Assigner):
    """Rising thresholds on predicted boxes (registry name ``cascade``).

    Args:
        thresholds: smallest overlaps of a positive, the paper's u of each stage, with colons between.
        switch: shares of training at which the second and further stages begin, likewise; ``equal`` parts for all.
        fallback: what a box learns from that no prediction overlaps enough: all that ``center`` sampling allows, its
            ``best`` prediction (of equal ones the nearest to its centre), or ``none``.
        radius: of center sampling, half side of its square in strides; 0 for the whole box.

    Raises:
        ValueError: for thresholds outside (0, 1) or falling, or a `switch` that does not match them.
    """

    needs = Needs(predictions=True)

    def __init__(
        self,
        head: HeadInfo,
        *,
        thresholds: str = "0.5:0.6:0.7",
        switch: str = "equal",
        fallback: Literal["center", "best", "none"] = "center",
        radius: float = 1.5,
    ) -> None:
        super().__init__()
        self.thresholds = _numbers("thresholds", thresholds)
        if not (self.thresholds[0] > 0 and self.thresholds[-1] < 1 and _ascend(self.thresholds)):
            raise ValueError(f"thresholds is {thresholds!r}; overlaps must be above 0, below 1 and never fall")
        stages = len(self.thresholds)
        equal = tuple(stage / stages for stage in range(1, stages))
        self.switch = equal if switch == "equal" else _numbers("switch", switch)
        if not (len(self.switch) == stages - 1 and _ascend((0.0, *self.switch, 1.0))):
            raise ValueError(
                f"switch is {switch!r}; it must be 'equal' or {stages - 1} shares of training for {stages} thresholds,"
                " from 0 to 1 and never falling"
            )
        self.fallback = fallback
        self.sampling = CenterSampling(head, radius=radius)

    def forward(self, grid: Grid, targets: Targets, predictions: Predictions | None, step: Step) -> Assignment:
        """Assign by the detector's boxes where center sampling would."""
        predictions = self.required(grid, predictions)
        gt, location, ok = self.sampling.candidates(grid, targets)
        cell, cells = grid.cell(at(targets.image, gt), location), targets.num_images * grid.num_locations
        overlap = predicted_overlap(targets, predictions, gt, cell)
        rank = at(box_rank(targets), gt)
        keep = one_box_each(cell, -overlap, rank, ok & (overlap >= self.threshold(step.progress)), cells)

        count = group_sum(keep.to(overlap.dtype), gt, targets.num_boxes)
        free = ok & (at(count, gt) == 0) & ~at(marked(cell, keep, cells), cell)
        if self.fallback == "center":
            keep = keep | keep_smallest(cell, rank, free, cells)
        elif self.fallback == "best":
            offset = (at(grid.points, location) - at(centers(targets.boxes), gt)).square().sum(dim=-1)
            best = keep_smallest(gt, -overlap, free, targets.num_boxes)
            best = one_box_each(gt, offset, location, best, targets.num_boxes)
            keep = keep | one_box_each(cell, -overlap, rank, best, cells)
        boxes = count.new_full((), float(targets.num_boxes))
        return Assignment(
            Samples.at_locations(grid, location, gt, keep),
            negatives(grid, targets),
            statistics={"positives_at_threshold": (count.sum(), boxes), "fallback": ((count == 0).sum(), boxes)},
        )

    def threshold(self, progress: float) -> float:
        """The overlap that is asked for at this share of training."""
        return self.thresholds[bisect_right(self.switch, progress)]


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(":"))
    except ValueError:
        raise ValueError(f"{name} is {text!r}; write numbers with colons between, as in 0.5:0.6:0.7") from None


def _ascend(numbers: tuple[float, ...]) -> bool:
    return all(low <= high for low, high in pairwise(numbers))
