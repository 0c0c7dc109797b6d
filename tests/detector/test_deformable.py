"""Modulated deformable convolution against a loop over taps, and in the backbones that take it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from detector.backbone import BackboneError, PyramidBackbone
from detector.deformable import ModulatedConv2d

CASES = [
    {"in_channels": 4, "out_channels": 6, "padding": 1},
    {"in_channels": 8, "out_channels": 8, "padding": 1, "stride": 2, "groups": 4, "bias": False},
    {"in_channels": 4, "out_channels": 4, "padding": 2, "dilation": 2, "groups": 2},
]
IDS = ["plain", "grouped-stride", "dilated"]


def pair(case, seed=0, dtype=torch.float32):
    """A convolution, and its deformable replacement with the same weight tensor."""
    torch.manual_seed(seed)
    plain = nn.Conv2d(kernel_size=3, **case).to(dtype)
    return plain, ModulatedConv2d(plain).to(dtype)


def stir(module: ModulatedConv2d, seed=1, strength=0.3) -> None:
    """Offsets and masks of a trained module."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.offset.parameters():
            parameter.copy_(strength * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def bilinear(plane: torch.Tensor, y: float, x: float) -> float:
    """One value of ``[H, W]``, zero outside."""
    height, width = plane.shape
    total = 0.0
    for row in (int(y // 1), int(y // 1) + 1):
        for column in (int(x // 1), int(x // 1) + 1):
            if 0 <= row < height and 0 <= column < width:
                total += float(plane[row, column]) * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def reference(module: ModulatedConv2d, x: torch.Tensor) -> torch.Tensor:
    """Equation 1 of the paper, tap by tap."""
    steering = module.offset(x)
    taps = steering.shape[1] // 3
    offsets, masks = steering[:, : 2 * taps], steering[:, 2 * taps :].sigmoid()
    images, _, rows, columns = steering.shape
    outs, per_group = module.weight.shape[:2]
    share = outs // (x.shape[1] // per_group)  # output channels per group
    result = torch.zeros(images, outs, rows, columns, dtype=x.dtype)
    for image in range(images):
        for out in range(outs):
            for i in range(rows):
                for j in range(columns):
                    for tap in range(taps):
                        dy, dx = offsets[image, 2 * tap : 2 * tap + 2, i, j].tolist()
                        y = i * module.stride[0] - module.padding[0] + tap // 3 * module.dilation[0] + dy
                        at = j * module.stride[1] - module.padding[1] + tap % 3 * module.dilation[1] + dx
                        for channel in range(per_group):
                            plane = x[image, out // share * per_group + channel]
                            weight = module.weight[out, channel, tap // 3, tap % 3]
                            result[image, out, i, j] += weight * masks[image, tap, i, j] * bilinear(plane, y, at)
            if module.bias is not None:
                result[image, out] += module.bias[out]
    return result


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_it_is_the_papers_sum_over_taps(case):
    _, module = pair(case, dtype=torch.float64)
    stir(module)
    x = torch.randn(1, case["in_channels"], 5, 6, dtype=torch.float64)
    with torch.no_grad():
        got, expected = module(x), reference(module, x)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_first_output_is_half_of_the_plain_convolutions(case):
    plain, module = pair({**case, "bias": False})
    x = torch.randn(2, case["in_channels"], 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(module(x), 0.5 * plain(x), rtol=1e-4, atol=1e-5)


def test_gradients_agree_with_finite_differences():
    _, module = pair(CASES[1], dtype=torch.float64)
    stir(module)
    names = [name for name, _ in module.named_parameters()]
    x = torch.randn(1, 8, 4, 5, dtype=torch.float64, requires_grad=True)

    def forward(x, *parameters):
        return functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    parameters = [parameter.detach().clone().requires_grad_() for parameter in module.parameters()]
    assert names == ["weight", "offset.weight", "offset.bias"]
    assert torch.autograd.gradcheck(forward, (x, *parameters), fast_mode=True)


def test_offsets_and_masks_learn_from_the_first_step():
    _, module = pair(CASES[0])
    module(torch.randn(1, 4, 6, 6)).square().sum().backward()
    gradient = module.offset.weight.grad
    assert (gradient[:18].abs().sum(dim=(1, 2, 3)) > 0).all()
    assert (gradient[18:].abs().sum(dim=(1, 2, 3)) > 0).all()


def test_a_state_dict_comes_back_and_a_plain_one_fits():
    plain, module = pair(CASES[0])
    stir(module)
    x = torch.randn(1, 4, 6, 6)
    _, other = pair(CASES[0], seed=5)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), module(x))
    lacking, unknown = other.load_state_dict(plain.state_dict(), strict=False)
    assert (lacking, unknown) == (["offset.weight", "offset.bias"], [])


def test_under_autocast_it_stays_near_float32():
    _, module = pair(CASES[1])
    stir(module, strength=0.05)
    x = torch.randn(2, 8, 9, 9)
    exact = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = module(x)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)
    rough.float().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters())


def test_no_image_is_no_output():
    _, module = pair(CASES[0])
    assert module(torch.zeros(0, 4, 6, 6)).shape == (0, 6, 6, 6)


def build(name="test_resnet", stages=(4,), *, frozen_stages=0, frozen_bn=False, weights=None):
    torch.manual_seed(0)
    return PyramidBackbone(
        name, 8, pretrained=False, frozen_stages=frozen_stages, frozen_bn=frozen_bn, deformable_stages=stages,
        weights=weights,
    )  # fmt: skip


def deformed(backbone: PyramidBackbone) -> list[str]:
    return [name for name, module in backbone.body.named_modules() if isinstance(module, ModulatedConv2d)]


@pytest.mark.parametrize(
    ("name", "stages", "blocks"),
    [
        ("resnet50", (3, 4, 5), {"layer2": 4, "layer3": 6, "layer4": 3}),
        ("resnet50", (2,), {"layer1": 3}),
        ("resnet101", (5,), {"layer4": 3}),
        ("resnext101_64x4d", (3, 4, 5), {"layer2": 4, "layer3": 23, "layer4": 3}),
        ("resnet50.tv_in1k", (4, 5), {"layer3": 6, "layer4": 3}),
    ],
)
def test_each_bottleneck_of_a_stage_is_deformed(name, stages, blocks):
    with torch.device("meta"):
        plain, backbone = build(name, ()), build(name, stages)
        maps = backbone(torch.zeros(1, 3, 64, 96))
    assert deformed(backbone) == [f"{layer}.{i}.conv2" for layer, count in blocks.items() for i in range(count)]
    assert [tuple(m.shape[-2:]) for m in maps] == [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    before, after = plain.state_dict(), backbone.state_dict()
    assert {key: value.shape for key, value in before.items()} == {key: after[key].shape for key in before}
    assert all(".conv2.offset." in key for key in after.keys() - before.keys())


def test_frozen_parts_and_gradients_are_as_without():
    backbone = build(frozen_stages=3, frozen_bn=True).train()
    sum(m.sum() for m in backbone(torch.randn(1, 3, 64, 64))).backward()
    without = [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    assert without
    assert all(name.startswith(("body.conv1", "body.bn1", "body.layer1")) for name in without)


@pytest.mark.parametrize(
    ("name", "stages"),
    [("resnet18", (3,)), ("test_resnet", (5,)), ("mobilenetv3_small_100", (4,)), ("test_resnet", (4, 6))],
)
def test_a_backbone_without_such_bottlenecks_is_refused(name, stages):
    with pytest.raises(BackboneError, match=rf"'{name}' has no bottleneck .* in stage {stages[-1]}; .*2 to 5"):
        build(name, stages)


@pytest.mark.slow
def test_the_largest_backbone_of_the_paper_runs():
    backbone = build("resnext101_64x4d", (3, 4, 5), frozen_stages=3, frozen_bn=True).eval()
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert [tuple(m.shape) for m in maps] == [(1, 8, n, n) for n in (8, 4, 2, 1, 1)]
    assert all(torch.isfinite(m).all() for m in maps)
