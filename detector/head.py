"""The FCOS head: two towers shared by all levels; class logits, distances and one auxiliary quality logit."""

from __future__ import annotations

from math import gcd, log

import torch
from torch import Tensor, nn

PRIOR = 0.01  # initial class probability (RetinaNet sec. 4.1)
GROUPS = 32  # of the group norms; fewer where the channels do not divide
MAX_EXPONENT = 7.0  # distances stay under exp(7) = 1097 strides; an untrained head must not overflow


class FCOSHead(nn.Module):
    """Class tower and box tower (Tian et al. 2019, fig. 2), the quality branch on the box tower.

    Args:
        channels: of the input maps and the towers.
        num_classes: C.
        depth: convolutions per tower.
        num_levels: L; each level has a scale of its own on the distances.
    """

    def __init__(self, channels: int, num_classes: int, depth: int, num_levels: int) -> None:
        super().__init__()
        self.class_tower = _tower(channels, depth)
        self.box_tower = _tower(channels, depth)
        self.logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.distances = nn.Conv2d(channels, 4, 3, padding=1)
        self.quality = nn.Conv2d(channels, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(num_levels))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.constant_(self.logits.bias, -log((1 - PRIOR) / PRIOR))

    def forward(self, features: list[Tensor], strides: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Dense maps of all levels, flattened level-major and row-major.

        Returns:
            logits ``[B, R, C]``, distances ``[B, R, 4]`` in pixels and > 0, quality logits ``[B, R]``, float32.
        """
        logits, distances, quality = [], [], []
        for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
            box = self.box_tower(feature)
            logits.append(_flatten(self.logits(self.class_tower(feature))))
            # exp, not ReLU: a ReLU that starts below zero never learns a distance.
            exponent = (self.scales[level] * _flatten(self.distances(box))).clamp(max=MAX_EXPONENT)
            distances.append(exponent.exp() * stride)
            quality.append(_flatten(self.quality(box)).squeeze(-1))
        return torch.cat(logits, dim=1), torch.cat(distances, dim=1), torch.cat(quality, dim=1)


def _flatten(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2).float()


def _tower(channels: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(gcd(GROUPS, channels), channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
