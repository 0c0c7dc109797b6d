"""The backbone (any timm model with features at strides 8, 16 and 32) and the feature pyramid P3-P7 on it."""

from __future__ import annotations

from collections import OrderedDict
from difflib import get_close_matches

import timm
import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

STRIDES = (8, 16, 32, 64, 128)  # P3-P7


class BackboneError(ValueError):
    """A backbone that cannot be built: unknown name, no feature maps, or no pretrained weights at hand."""


class PyramidBackbone(nn.Module):
    """timm features at strides 8, 16, 32, and an FPN with two further levels on P5.

    Args:
        name: timm model name.
        channels: of every pyramid level.
        pretrained: load timm's weights.
        frozen_stages: this many of the backbone's first top-level blocks are not trained, nor are their statistics.
        frozen_bn: batch norms of the backbone use fixed statistics and are not trained.

    Raises:
        BackboneError: see there.
    """

    def __init__(self, name: str, channels: int, *, pretrained: bool, frozen_stages: int, frozen_bn: bool) -> None:
        super().__init__()
        self.body, widths = _features(name, pretrained)
        self.fpn = FeaturePyramidNetwork(widths, channels, extra_blocks=LastLevelP6P7(channels, channels))
        # Counted before the norms freeze: one without parameters would be no stage any more.
        stages = [child for child in self.body.children() if next(child.parameters(), None) is not None]
        if frozen_bn:
            self.body = _freeze_batch_norm(self.body)
        self._frozen = tuple(stages[:frozen_stages])
        for stage in self._frozen:
            stage.requires_grad_(False)

    def train(self, mode: bool = True) -> PyramidBackbone:
        """Training mode for all but the frozen stages, whose batch norms keep their statistics."""
        super().train(mode)
        for stage in self._frozen:
            stage.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> P3-P7, ``[B, D, H_l, W_l]``."""
        maps = self.body(images)
        return list(self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps))).values())


def _features(name: str, pretrained: bool) -> tuple[nn.Module, list[int]]:
    """The timm model and the channels of its maps at strides 8, 16 and 32."""
    if name not in timm.list_models():
        close = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise BackboneError(f"unknown backbone {name!r}; near names in timm: {', '.join(close) or 'none'}")
    try:
        probe = timm.create_model(name, features_only=True, pretrained=False)
    except (RuntimeError, AttributeError, ValueError, AssertionError) as error:
        raise BackboneError(f"backbone {name!r} offers no feature maps: {error}") from error
    reductions = probe.feature_info.reduction()
    wanted = [max((i for i, r in enumerate(reductions) if r == s), default=-1) for s in STRIDES[:3]]
    if min(wanted) < 0:
        raise BackboneError(f"backbone {name!r} has features at strides {reductions}; 8, 16 and 32 are needed")
    try:
        body = timm.create_model(name, features_only=True, out_indices=wanted, pretrained=pretrained)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise BackboneError(
            f"pretrained weights of {name!r} could not be had ({type(error).__name__}); "
            "go online once, or set model.pretrained=false"
        ) from error
    return body, list(body.feature_info.channels())


def _freeze_batch_norm(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.BatchNorm2d):
        frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
        with torch.no_grad():
            frozen.weight.copy_(module.weight)
            frozen.bias.copy_(module.bias)
            frozen.running_mean.copy_(module.running_mean)
            frozen.running_var.copy_(module.running_var)
        # timm fuses norm and activation in one module; what follows the norm must stay.
        activation = [getattr(module, part) for part in ("drop", "act") if hasattr(module, part)]
        return nn.Sequential(frozen, *activation) if activation else frozen
    for name, child in module.named_children():
        setattr(module, name, _freeze_batch_norm(child))
    return module
