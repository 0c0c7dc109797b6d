"""Backbone, pyramid and head: shapes, freezing, and what a wrong name is told."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detector.backbone import STRIDES, BackboneError, PyramidBackbone, pretrained_pixels
from detector.head import FCOSHead


def build(name="test_resnet", channels=8, *, pretrained=False, frozen_stages=0, frozen_bn=False, seed=0):
    torch.manual_seed(seed)
    return PyramidBackbone(
        name, channels, pretrained=pretrained, frozen_stages=frozen_stages, frozen_bn=frozen_bn
    )  # fmt: skip


@pytest.fixture
def lived_in_norms(monkeypatch):
    """timm models whose batch norms look trained: a fresh one is the identity and hides mistakes."""
    create = timm.create_model

    def create_lived_in(*arguments, **options):
        model = create(*arguments, **options)
        generator = torch.Generator().manual_seed(7)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                with torch.no_grad():
                    for tensor in (module.weight, module.running_var):
                        tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
                    for tensor in (module.bias, module.running_mean):
                        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
        return model

    monkeypatch.setattr(timm, "create_model", create_lived_in)


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_100"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160), (33, 70)])
def test_every_level_has_its_stride(name, height, width):
    backbone = build(name).eval()
    with torch.inference_mode():
        maps = backbone(torch.zeros(1, 3, height, width))
    assert [tuple(m.shape) for m in maps] == [(1, 8, -(-height // s), -(-width // s)) for s in STRIDES]


# test_resnet keeps norm and activation apart, the others fuse them into one module of timm's.
@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_100", "efficientnet_lite0"])
def test_freezing_norms_does_not_change_the_network(lived_in_norms, name):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    free, frozen = build(name).eval().double(), build(name, frozen_bn=True).eval().double()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.body.modules())
    assert sum(isinstance(m, FrozenBatchNorm2d) for m in frozen.body.modules()) == sum(
        isinstance(m, nn.BatchNorm2d) for m in free.body.modules()
    )
    with torch.inference_mode():
        expected, got = free(images), frozen(images)
        for a, b in zip(expected, got, strict=True):
            torch.testing.assert_close(a, b)
        for a, b in zip(got, frozen.train()(images), strict=True):
            assert torch.equal(a, b)  # no batch statistics


def test_frozen_norms_have_nothing_to_train_and_do_not_drift():
    backbone = build(frozen_bn=True).train()
    norms = [m for m in backbone.body.modules() if isinstance(m, FrozenBatchNorm2d)]
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in norms]
    backbone(torch.randn(2, 3, 64, 64))[0].sum().backward()
    assert all(not list(m.parameters()) for m in norms)
    assert all(torch.equal(m.state_dict()[k], v) for m, old in zip(norms, before, strict=True) for k, v in old.items())


def stage_of(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("frozen_bn", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_frozen_stages_are_the_first_blocks_whatever_their_norms(count, frozen_bn):
    order = list(dict.fromkeys(stage_of(name) for name, _ in build().body.named_parameters()))
    backbone = build(frozen_stages=count, frozen_bn=frozen_bn).train()
    trained = {stage_of(name) for name, p in backbone.body.named_parameters() if p.requires_grad}
    with_parameters = {stage_of(name) for name, _ in backbone.body.named_parameters()}
    assert trained == set(order[count:]) & with_parameters
    assert all(p.requires_grad for p in backbone.fpn.parameters())
    sum(m.sum() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    for name, parameter in backbone.body.named_parameters():
        assert (parameter.grad is None) == (stage_of(name) in order[:count])


def test_every_trained_parameter_gets_a_gradient():
    """A parameter without one would stop a run over several processes."""
    for name in ("test_resnet", "mobilenetv3_small_100"):
        backbone = build(name).train()
        sum(m.sum() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
        assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


def test_an_unknown_backbone_is_told_near_names():
    with pytest.raises(BackboneError, match=r"unknown backbone 'resnet5O'; near names in timm: .*resnet50"):
        build("resnet5O")
    with pytest.raises(BackboneError, match="none"):
        build("§§§§")
    with pytest.raises(BackboneError, match=r"'resnet50\.tv_in1K'; near names in timm: resnet50\.tv_in1k"):
        build("resnet50.tv_in1K")


def test_a_name_may_say_whose_weights():
    with torch.device("meta"):
        names = [list(build(name).state_dict()) for name in ("resnet18", "resnet18.tv_in1k")]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("tf_efficientnet_lite0", (0.5,) * 3, (0.5,) * 3),
        ("resnet50", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("inception_v3.tv_in1k", (0.5,) * 3, (0.5,) * 3),
        ("inception_v3.gluon_in1k", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # the tag makes the difference
    ],
)
def test_timm_says_how_images_were_normalised(name, mean, std):
    assert pretrained_pixels(name) == (mean, std)
    with pytest.raises(BackboneError, match=f"unknown backbone '{name}x'"):
        pretrained_pixels(f"{name}x")


def test_a_backbone_without_the_strides_is_told_what_it_has():
    with pytest.raises(BackboneError, match=r"8, 16 and 32 are needed|offers no feature maps"):
        build("test_vit")


def test_absent_weights_name_the_way_out(monkeypatch):
    create = timm.create_model

    def offline(*arguments, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to host")
        return create(*arguments, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(BackboneError, match=r"'test_resnet'.*model\.weights=FILE.*model\.pretrained=false"):
        build(pretrained=True)


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 32), (48, 16), (32, 16), (20, 4), (8, 4), (7, 1)])
def test_group_norm_takes_any_width(channels, groups):
    torch.manual_seed(0)
    head = FCOSHead(channels, 3, 2, 2)
    norms = [m for m in head.modules() if isinstance(m, nn.GroupNorm)]
    assert [m.num_groups for m in norms] == [groups] * 4
    logits, distances, quality = head([torch.randn(2, channels, 4, 5), torch.randn(2, channels, 2, 3)], (8, 16))
    assert (logits.shape, distances.shape, quality.shape) == ((2, 26, 3), (2, 26, 4), (2, 26))
    assert (distances > 0).all()
    head([torch.randn(1, channels, 2, 2), torch.randn(1, channels, 1, 1)], (8, 16))  # one small image alone


def test_the_head_flattens_level_major_then_row_major():
    torch.manual_seed(0)
    head = FCOSHead(8, 3, 1, 2).eval()
    features = [torch.randn(1, 8, 4, 5), torch.randn(1, 8, 2, 3)]
    logits, distances, quality = head(features, (8, 16))
    alone = head.logits(head.class_tower(features[1]))
    assert torch.equal(logits[0, 20 + 1 * 3 + 2], alone[0, :, 1, 2])
    box = head.box_tower(features[0])
    assert torch.equal(quality[0, 2 * 5 + 4], head.quality(box)[0, 0, 2, 4])
    torch.testing.assert_close(distances[0, 7], head.distances(box)[0, :, 1, 2].exp() * 8)


def test_the_first_scores_are_the_prior_and_the_first_distances_a_stride():
    torch.manual_seed(0)
    head = FCOSHead(16, 5, 1, 2)
    logits, distances, _ = head([torch.randn(1, 16, 4, 4), torch.randn(1, 16, 2, 2)], (8, 16))
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)
    assert distances[:, :16].mean().item() == pytest.approx(8, rel=0.2)
    assert distances[:, 16:].mean().item() == pytest.approx(16, rel=0.2)


def test_each_level_scales_its_own_distances_and_none_overflows():
    torch.manual_seed(0)
    head = FCOSHead(8, 2, 1, 2)
    nn.init.constant_(head.distances.bias, 2.0)
    features = [torch.randn(1, 8, 2, 2), torch.randn(1, 8, 2, 2)]
    before = head(features, (8, 16))[1]
    with torch.no_grad():
        head.scales[1] = 1e4
    after = head(features, (8, 16))[1]
    assert torch.equal(before[:, :4], after[:, :4])
    assert torch.isfinite(after).all()
    assert (after[:, 4:] > before[:, 4:]).all()


def test_frozen_stages_keep_their_statistics():
    body = PyramidBackbone("test_resnet", 16, pretrained=False, frozen_stages=1, frozen_bn=False)
    body.train()
    norms = [m for m in body.body.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    body(torch.randn(2, 3, 64, 64))
    changed = [not torch.equal(a, norm.running_mean) for a, norm in zip(before, norms, strict=True)]
    assert any(changed)
    assert not all(changed)
    assert all(norm.training == moved for norm, moved in zip(norms, changed, strict=True))


# test_resnet keeps norm and activation apart, efficientnet_lite0 fuses them into one module of timm's.
@pytest.mark.parametrize("name", ["test_resnet", "efficientnet_lite0"])
@pytest.mark.parametrize("frozen_stages", [0, 2])
def test_synchronised_norms_are_the_same_network_and_leave_frozen_stages_alone(lived_in_norms, name, frozen_stages):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    alone, shared = (build(name, frozen_stages=frozen_stages) for _ in range(2))
    parameters, keys = {*map(id, shared.parameters())}, [*shared.state_dict()]
    assert shared.trains_statistics
    shared.synchronise_statistics()
    assert {*map(id, shared.parameters())} == parameters  # an optimiser that has them goes on
    assert [*shared.state_dict()] == keys
    with torch.inference_mode():
        for a, b in zip(alone.eval()(images), shared.eval()(images), strict=True):
            assert torch.equal(a, b)
    norms = [m for m in shared.train().body.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kinds = {norm.training: isinstance(norm, nn.SyncBatchNorm) for norm in norms}
    assert kinds == ({True: True, False: False} if frozen_stages else {True: True})
    assert all(isinstance(norm, nn.SyncBatchNorm) == norm.training for norm in norms)


def test_norms_that_learn_nothing_are_not_synchronised():
    frozen = build(frozen_bn=True)
    assert not frozen.trains_statistics
    frozen.synchronise_statistics()
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in frozen.modules())
    assert not build(frozen_stages=6).trains_statistics  # all stages of the body
