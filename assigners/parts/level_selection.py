"""SAPD's feature selection network: how well each pyramid level suits each box, from what the levels see of it.

(Zhu et al., "Soft Anchor-Point Object Detection", ECCV 2020, sec. 3.3.) RoIAlign of the box on every level, the levels
side by side as channels, three 3x3 convolutions without padding (7 to 5 to 3 to 1) and one linear layer.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from assigners.contract import Targets
from assigners.grid import Grid
from assigners.parts.roi_features import Rows, by_rows, roi_align_rows

SIDE = 7  # bins along each axis; what three 3x3 convolutions without padding leave of them is 1
SAMPLING_RATIO = 2  # reads per bin and axis; the paper does not state it


class FeatureSelection(nn.Module):
    """Logits of the levels per box.

    Args:
        channels: of each FPN map.
        levels: L.
        hidden: channels of the convolutions.
    """

    def __init__(self, channels: int, levels: int, hidden: int) -> None:
        super().__init__()
        widths = (channels * levels, hidden, hidden, hidden)
        self.layers = nn.Sequential()
        for before, after in pairwise(widths):
            convolution = nn.Conv2d(before, after, 3)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            self.layers.extend((convolution, nn.ReLU()))
        self.choice = nn.Linear(hidden, levels)
        nn.init.normal_(self.choice.weight, std=0.01)  # all levels alike at first
        nn.init.zeros_(self.choice.bias)

    def forward(self, features: tuple[Tensor, ...], grid: Grid, targets: Targets) -> Tensor:
        """Look at every box.

        Args:
            features: maps ``[B, D, H_l, W_l]`` of all levels, with gradient: the network's loss supervises them too.
            targets: N boxes.

        Returns:
            ``[N, L]`` float32.
        """
        return by_rows(partial(self._logits, grid), features, Rows.all(targets, grid.num_levels))

    def _logits(self, grid: Grid, features: tuple[Tensor, ...], rows: Rows) -> Tensor:
        pooled = roi_align_rows(features, grid, rows, SIDE, SAMPLING_RATIO).unflatten(0, (-1, grid.num_levels))
        stacked = pooled.transpose(2, 3).flatten(1, 2).unflatten(2, (SIDE, SIDE))
        logits: Tensor = self.choice(self.layers(stacked).flatten(1))
        return logits
