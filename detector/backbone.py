"""The backbone (any timm model with features at strides 8, 16 and 32) and the feature pyramid P3-P7 on it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import timm
import torch
from timm.layers import convert_sync_batchnorm  # torch's own would drop the activation that timm's norms hold
from timm.models import PretrainedCfg
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from assigners.contract import HeadInfo
from detector.deformable import deform_bottlenecks

STRIDES = HeadInfo.strides  # P3-P7
RESNET_STAGES = {2: "layer1", 3: "layer2", 4: "layer3", 5: "layer4"}  # C2-C5 by timm's names

_OF_A_RUN = "backbone.body."  # what a detector's state dict puts before the names of its backbone's tensors
_NO_MATTER = ".num_batches_tracked"  # a counter, which frozen norms do not have


class BackboneError(ValueError):
    """A backbone that cannot be built: unknown name, no feature maps, no or other weights, nothing to deform."""


class PyramidBackbone(nn.Module):
    """timm features at strides 8, 16, 32, and an FPN with two further levels on P5.

    Args:
        name: timm model name, with or without the tag of its weights (``resnet50.tv_in1k``).
        channels: of every pyramid level.
        pretrained: load timm's weights.
        frozen_stages: this many of the backbone's first top-level blocks are not trained, nor are their statistics.
        frozen_bn: batch norms of the backbone use fixed statistics and are not trained.
        deformable_stages: of 2-5 (C2-C5); the 3x3 convolutions of their bottlenecks become modulated deformable ones.
        weights: to start from, instead of timm's: by timm's own names, or those of a whole detector.

    Raises:
        BackboneError: see there.
    """

    def __init__(
        self,
        name: str,
        channels: int,
        *,
        pretrained: bool,
        frozen_stages: int,
        frozen_bn: bool,
        deformable_stages: Sequence[int] = (),
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.body, widths = _features(name, pretrained and weights is None)
        if deformable_stages:
            _deform(self.body, name, deformable_stages)
        if weights is not None:
            _load(self.body, name, weights)
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

    @property
    def trains_statistics(self) -> bool:
        """Whether batch norms learn the statistics of what they see."""
        learning = (stage for stage in self.body.children() if stage not in self._frozen)
        return any(isinstance(part, _BatchNorm) for stage in learning for part in stage.modules())

    def synchronise_statistics(self) -> None:
        """Let processes share the statistics of each batch, on GPUs; parameters, names and evaluation stay."""
        for name, stage in list(self.body.named_children()):
            if stage not in self._frozen:  # their norms keep their statistics, and `train` must find them
                setattr(self.body, name, convert_sync_batchnorm(stage))

    def forward(self, images: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> P3-P7, ``[B, D, H_l, W_l]``."""
        maps = self.body(images)
        return list(self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps))).values())


def pretrained_pixels(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB in [0, 1] that timm's weights of a model were trained with.

    Args:
        name: timm model name; without a tag, of the weights that timm takes for it.

    Raises:
        BackboneError: for an unknown name.
    """
    _known(name)
    found = timm.get_pretrained_cfg(name) or PretrainedCfg()  # as timm does for a model without any weights
    return tuple(found.mean), tuple(found.std)


def _known(name: str) -> None:
    """Hold a name to timm's.

    Raises:
        BackboneError: if timm does not know it.
    """
    architecture, _, tag = name.partition(".")
    if architecture not in timm.list_models() or (tag and name not in timm.list_pretrained(f"{architecture}.*")):
        known = timm.list_pretrained(f"{architecture}.*") or timm.list_models()
        close = get_close_matches(name, known, n=3, cutoff=0.5)
        raise BackboneError(f"unknown backbone {name!r}; near names in timm: {', '.join(close) or 'none'}")


def _features(name: str, pretrained: bool) -> tuple[nn.Module, list[int]]:
    """The timm model and the channels of its maps at strides 8, 16 and 32."""
    _known(name)
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
            "go online once, or name a local file of them with --set model.weights=FILE, or set model.pretrained=false"
        ) from error
    return body, list(body.feature_info.channels())


def _deform(body: nn.Module, name: str, numbers: Sequence[int]) -> None:
    """Deform stages of a ResNet.

    Raises:
        BackboneError: for a stage that there is none of, or one without bottlenecks.
    """
    for number in numbers:
        stage = getattr(body, RESNET_STAGES.get(number, ""), None)
        if stage is None or not deform_bottlenecks([stage]):
            raise BackboneError(
                f"backbone {name!r} has no bottleneck with a 3x3 convolution in stage {number}; "
                "model.deformable_stages takes stages 2 to 5 of timm's ResNets and ResNeXts of 50 layers or more"
            )


def _load(body: nn.Module, name: str, weights: Mapping[str, Tensor]) -> None:
    """Put `weights` into `body`; what steers deformable convolutions may be absent, and starts as it does anyway.

    timm joins nested names with underscores where it flattens a model for its features, so both spellings match.

    Raises:
        BackboneError: if a tensor is missing, of another shape, or unknown to the model.
    """
    of_a_run = {key.removeprefix(_OF_A_RUN): value for key, value in weights.items() if key.startswith(_OF_A_RUN)}
    given = {_flat(key): (key, value) for key, value in (of_a_run or weights).items() if not key.endswith(_NO_MATTER)}
    own = {key: value for key, value in body.state_dict().items() if not key.endswith(_NO_MATTER)}
    steering = {key for key in own if ".offset." in key}
    wanted = [key for key in own if key not in steering or _flat(key) in given]
    missing = [key for key in wanted if _flat(key) not in given]
    with torch.device("meta"):
        whole = timm.create_model(name, pretrained=False)  # with the classifier, which a file may hold or not
    known = {_flat(key) for key in (*own, *whole.state_dict())}
    unknown = [key for flat, (key, _) in given.items() if flat not in known]
    for what, keys in (("lack", missing), ("hold, unknown to it,", unknown)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise BackboneError(f"the weights are not of backbone {name!r}: they {what} {keys[0]!r}{more}")
    for key in wanted:
        found = given[_flat(key)][1]
        if found.shape != own[key].shape:
            raise BackboneError(
                f"the weights are not of backbone {name!r}: {key!r} has shape {list(found.shape)}, not "
                f"{list(own[key].shape)}"
            )
    body.load_state_dict({key: given[_flat(key)][1] for key in wanted}, strict=False)


def _flat(key: str) -> str:
    return key.replace(".", "_")


def _freeze_batch_norm(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.BatchNorm2d):
        frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
        frozen.load_state_dict(module.state_dict())
        # timm fuses norm and activation in one module; what follows the norm must stay.
        activation = [getattr(module, part) for part in ("drop", "act") if hasattr(module, part)]
        return nn.Sequential(frozen, *activation) if activation else frozen
    for name, child in module.named_children():
        setattr(module, name, _freeze_batch_norm(child))
    return module
