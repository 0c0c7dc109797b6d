"""The protocols that ship: what the paper states is in them, and what they name can be built."""

from __future__ import annotations

import pytest
import torch

from detector import ImageBatch
from harness.core.errors import UserError
from harness.protocol.protocol import Protocol, builtin_protocols, load_protocol
from harness.training.build import attach_assigner, build_detector, learning_rate

PAPER = ("paper", "paper-180k", "paper-voc", "paper-wider")
SCALES = "[400,500,600,640,700,800,900,1000,1100,1200,1300,1400,1800]"
DCN = "model.deformable_stages=[3,4,5]"
TABLE_7 = {
    "R101": ("model.backbone=resnet101.tv_in1k",),
    "X101": ("model.backbone=resnext101_64x4d.tv_in1k",),
    "X101-DCN": ("model.backbone=resnext101_64x4d.tv_in1k", DCN),
    "X101-DCN-multi-scale": (
        "model.backbone=resnext101_64x4d.tv_in1k", DCN, f"evaluation.test_scales={SCALES}", "evaluation.test_flip=true",
    ),
}  # fmt: skip


def test_keys_that_came_later_are_content_only_off_their_default():
    plain = Protocol(name="p")
    written = Protocol.model_validate({
        "name": "p",
        "model": {"deformable_stages": [], "weights": "", "weights_sha256": ""},
        "evaluation": {"test_scales": [], "test_flip": False},
    })  # fmt: skip
    assert written.digest == plain.digest
    assert not {"deformable_stages", "weights", "weights_sha256"} & plain.content()["model"].keys()
    changed = Protocol.model_validate({"name": "p", "model": {"deformable_stages": [4, 5]}})
    assert changed.content()["model"]["deformable_stages"] == [4, 5]
    assert Protocol.model_validate({**changed.content(), "name": "p"}) == changed


def test_all_protocols_are_there():
    assert set(builtin_protocols()) >= {"shapes-cpu", "small", "tiny", *PAPER, "gpu-30min"}


@pytest.mark.parametrize("name", PAPER)
def test_what_the_paper_states_is_in_its_protocols(name):
    protocol = load_protocol(name)
    schedule, evaluation = protocol.schedule, protocol.evaluation
    assert (schedule.optimizer, schedule.lr, schedule.momentum) == ("sgd", 0.01, 0.9)
    assert (schedule.weight_decay, schedule.batch_size) == (1e-4, 16)
    assert (evaluation.nms_iou, evaluation.score_threshold) == (0.6, 0.05)
    assert (protocol.model.quality, protocol.model.channels, protocol.model.head_depth) == ("iou", 256, 4)
    assert (protocol.loss.class_weight, protocol.loss.box_weight, protocol.loss.quality_weight) == (1, 1, 1)


@pytest.mark.parametrize(
    ("name", "steps", "drops"),
    [
        ("paper", 90_000, (60_000, 80_000)),
        ("paper-180k", 180_000, (120_000, 160_000)),
        ("paper-voc", 18_000, (12_000, 16_000)),
        ("paper-wider", 45_000, (30_000, 40_000)),
    ],
)
def test_the_rate_falls_at_the_very_steps(name, steps, drops):
    schedule = load_protocol(name).schedule
    assert schedule.steps == steps
    for number, drop in enumerate(drops):
        assert learning_rate(schedule, drop - 1) == pytest.approx(0.01 * 0.1**number)
        assert learning_rate(schedule, drop) == pytest.approx(0.01 * 0.1 ** (number + 1))


def test_sizes_of_the_paper():
    paper, longer, voc = (load_protocol(name).data for name in ("paper", "paper-180k", "paper-voc"))
    assert {(data.short_edge, data.long_edge) for data in (paper, longer, voc)} == {(800, 1333)}
    assert (paper.scale_jitter, longer.scale_jitter) == ((1.0, 1.0), (0.8, 1.0))
    assert voc.train_split == "VOC2007/trainval+VOC2012/trainval"
    assert load_protocol("paper").evaluation.detections == load_protocol("paper-180k").evaluation.detections == 100


def test_rows_of_the_comparison_are_different_questions():
    protocols = [load_protocol("paper-180k", overrides) for overrides in TABLE_7.values()]
    assert len({protocol.digest for protocol in protocols}) == len(TABLE_7)
    assert protocols[0].digest == load_protocol("paper-180k").digest


@pytest.mark.parametrize("row", ["R101", "X101", "X101-DCN"])
def test_every_detector_of_the_comparison_can_be_built(row):
    """On the meta device, at full width, with the maps of an image at the paper's size."""
    protocol = load_protocol("paper-180k", (*TABLE_7[row], "model.pretrained=false"))
    with torch.device("meta"):
        detector = build_detector(protocol, 80, 0)
        features = detector.backbone(torch.zeros(1, 3, 800, 1344))
        logits, distances, quality = detector.head(features, (8, 16, 32, 64, 128))
    locations = 100 * 168 + 50 * 84 + 25 * 42 + 13 * 21 + 7 * 11
    assert (logits.shape, distances.shape, quality.shape) == ((1, locations, 80), (1, locations, 4), (1, locations))
    trained = {
        name.split(".")[1] for name, p in detector.backbone.named_parameters() if p.requires_grad and "body" in name
    }
    assert trained == {"layer2", "layer3", "layer4"}


@pytest.mark.parametrize("deformed", [False, True])
def test_a_step_and_an_evaluation_of_a_bottleneck_network(deformed):
    """The same parts on the smallest member of the family: training with frozen parts, bfloat16, and detections."""
    overrides = ("model.deformable_stages=[4]",) if deformed else ()
    narrow = ("model.backbone=test_resnet", "model.channels=16", "model.head_depth=1", "model.pretrained=false")
    detector = build_detector(load_protocol("paper-180k", (*overrides, *narrow)), 3, 0)
    attach_assigner(detector, "center", {}, 0)
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = ImageBatch(images, ((64, 96), (60, 90)))
    targets = [{"boxes": torch.tensor([[4.0, 4, 50, 40]]), "labels": torch.tensor([1])}] * 2
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector.train()(batch, targets)
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in detector.backbone.named_parameters() if p.requires_grad}
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients.values())
    assert any(".offset." in name for name in gradients) == deformed
    with torch.inference_mode():
        assert len(detector.eval()(batch)) == 2


@pytest.mark.parametrize("stages", ["[6]", "[1]", "[4, 3]", "[3, 3]", "[3.0]", "3"])
def test_stages_that_are_none_are_refused(stages):
    with pytest.raises(UserError, match=r"model(\.deformable_stages)?"):
        load_protocol("paper", (f"model.deformable_stages={stages}",))
