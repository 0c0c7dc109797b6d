"""What the assigners are timed against: the same rules as dense, per-image, textbook code, right and without tricks.

`harness bench assigners` runs them in turns with the zoo's own in one process. Each holds tables of all boxes and all
locations, [n, R], and of all classes, [n, R, C], where published implementations do, and takes one image at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from assigners import Assigner, Grid, Predictions, Targets
from harness.bench.dense import costs, geometric, likelihood
from harness.bench.dense.paa import paa
from harness.bench.dense.picture import Answer, Picture, nothing, pictures


def auto_assign(picture: Picture, assigner: Assigner) -> likelihood.Losses:
    """With the centre prior of the assigner beside it."""
    mean, log_deviation = assigner.get_parameter("mu"), assigner.get_parameter("log_sigma")
    return likelihood.auto_assign(picture, mean, log_deviation.exp())


@dataclass(frozen=True)
class Rule:
    """A dense rule, with the options that are the assigner's defaults.

    Attributes:
        answer: to one image.
        pair: numbers of 4 bytes that it holds at its peak per box and location.
        pair_class: the same per box, location and class, where these are more.
        losses: it answers with losses, to run backward through.
        asks: it reads parameters of the assigner.
    """

    answer: Callable[..., Any]
    pair: float
    pair_class: float = 0.0
    losses: bool = False
    asks: bool = False

    def __call__(
        self, grid: Grid, targets: Targets, predictions: Predictions, assigner: Assigner
    ) -> list[Answer] | list[likelihood.Losses]:
        """Answer each image of a batch; for losses every image needs a box."""
        more = (assigner,) if self.asks else ()
        return [
            self.answer(picture, *more) if len(picture.boxes) or self.losses else nothing(picture)
            for picture in pictures(grid, targets, predictions)
        ]

    def backward(self, answers: list[likelihood.Losses], inputs: list[Tensor]) -> tuple[Tensor | None, ...]:
        """Gradients of the losses' sum."""
        total = torch.stack([value for losses in answers for value in losses.values() if value.requires_grad]).sum()
        return torch.autograd.grad(total, inputs, allow_unused=True)

    def peak_bytes(self, boxes: int, locations: int, classes: int) -> float:
        """About the most memory that an image takes whose boxes cover it."""
        return 4 * locations * boxes * max(self.pair, self.pair_class * classes)


RULES = {
    "center": Rule(geometric.center, pair=10.5),
    "max_iou": Rule(geometric.max_iou, pair=10.5),
    "foveabox": Rule(geometric.foveabox, pair=11),
    "atss": Rule(geometric.atss, pair=10.5),
    "paa": Rule(paa, pair=10.5),
    "ddod": Rule(costs.ddod, pair=10.5),
    "poto": Rule(costs.poto, pair=10.5),
    "tal": Rule(costs.tal, pair=10.5),
    "sim_ota": Rule(costs.sim_ota, pair=10.5, pair_class=1.25),
    "dsla": Rule(costs.dsla, pair=10.5, pair_class=4.2),
    "lla": Rule(costs.lla, pair=10.5, pair_class=7.1),
    "ota": Rule(costs.ota, pair=10.5, pair_class=7.1),
    "uot": Rule(costs.uot, pair=11),
    "free_anchor": Rule(likelihood.free_anchor, pair=12, losses=True),
    "auto_assign": Rule(auto_assign, pair=38, losses=True, asks=True),
}
