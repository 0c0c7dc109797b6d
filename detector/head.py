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
        for layer in (self.logits, self.distances, self.quality):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.constant_(layer.bias, -log((1 - PRIOR) / PRIOR) if layer is self.logits else 0.0)

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


def _groups(channels: int) -> int:
    # Two channels a group at least: one alone on a map of a single cell has no variance, and torch refuses it.
    groups = gcd(GROUPS, channels)
    return groups if groups < channels else max(1, groups // 2)


def _tower(channels: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        # Under a norm only the direction of a weight matters, and a small weight turns fast: the usual std of 0.01
        # would let the first steps of an adaptive optimiser scramble the tower.
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        layers += [convolution, nn.GroupNorm(_groups(channels), channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
