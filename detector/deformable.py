"""Modulated deformable convolution (DCNv2; Zhu et al. 2019, "Deformable ConvNets v2") in place of a backbone's 3x3s."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class ModulatedConv2d(nn.Module):
    """A convolution that learns where each of its K taps reads, and how much that counts.

    Its weight keeps the name, shape and values of the convolution that it replaces, so weights trained without
    deformation load unchanged. As in the paper (sec. 3.2 and its initial values) offsets start at 0 and masks, a
    sigmoid, at 0.5: the first output is exactly half of the plain convolution's, and the norm behind it rescales that.

    Where and how much (`offset`) is computed in the ambient precision; the sampling itself is float32, since a
    position needs more digits than bfloat16 has. Its backward pass on a GPU adds atomically: not bit-reproducible.

    Args:
        plain: the convolution to replace, any groups, stride and dilation, zero padding.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias
        self.stride, self.padding, self.dilation = plain.stride, plain.padding, plain.dilation
        taps = plain.kernel_size[0] * plain.kernel_size[1]
        # Per output cell 2K offsets (y, x) in cells of the input, then K mask logits; one set for all groups.
        geometry: list[Any] = [plain.kernel_size, plain.stride, plain.padding, plain.dilation]
        self.offset = nn.Conv2d(plain.in_channels, 3 * taps, *geometry)
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, D, H, W]`` -> ``[B, D', H', W']`` in the dtype of the ambient precision."""
        steering = self.offset(x)
        taps = steering.shape[1] // 3
        # Autocast does not know this operator on every device: it gets its precision here.
        exact = torch.promote_types(self.weight.dtype, torch.float32)
        out: Tensor = deform_conv2d(
            x.to(exact),
            steering[:, : 2 * taps].to(exact),
            self.weight.to(exact),
            None if self.bias is None else self.bias.to(exact),
            self.stride,
            self.padding,
            self.dilation,
            mask=steering[:, 2 * taps :].to(exact).sigmoid(),
        )
        return out.to(steering.dtype)


def deform_bottlenecks(stages: Iterable[nn.Module]) -> int:
    """Replace every 3x3 convolution of the bottlenecks in `stages`, in place.

    A bottleneck is a residual block of three convolutions (He et al. 2016, fig. 5 right), as timm's ResNets have them:
    ``conv2`` is its 3x3.

    Returns:
        how many were replaced.
    """
    replaced = 0
    for block in [block for stage in stages for block in stage.modules()]:
        plain = getattr(block, "conv2", None)
        if isinstance(plain, nn.Conv2d) and plain.kernel_size == (3, 3) and hasattr(block, "conv3"):
            block.conv2 = ModulatedConv2d(plain)
            replaced += 1
    return replaced
