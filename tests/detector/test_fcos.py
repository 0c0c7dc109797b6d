"""The detector as a whole: torchvision's convention, padding, and no trace of the assigner in what is evaluated."""

from __future__ import annotations

import pytest
import torch

import assigners
from assigners.contract import Declares, Needs, Step, Targets
from assigners.grid import Grid, cached_grid
from assigners.ops.boxes import aligned_iou
from assigners.rules.center import CenterSampling
from detector import FCOS, ImageBatch, InferenceSettings, LossSettings, pad_images
from detector.images import FILL
from tests.detector.common import first_input

NAMES = ("center", "atss", "iqdet")


def build(assigner=None, *, seed=0, classes=3, channels=8, attach_seed=1, **options):
    torch.manual_seed(seed)
    model = FCOS(classes, backbone="test_resnet", channels=channels, head_depth=1, **options)
    if assigner is not None:
        torch.manual_seed(attach_seed)
        model.attach(assigners.create(assigner, model.head_info))
    return model


def images_of(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


def truth(boxes=(), labels=()):
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.tensor(labels).long()}


BOXES = truth([(4, 6, 40, 50), (20, 2, 60, 30)], [0, 2])


def scored(model, seed=3):
    """Raise the initial class scores so that an untrained network finds plenty."""
    torch.manual_seed(seed)
    with torch.no_grad():
        model.head.logits.weight.normal_(std=0.3)
        model.head.logits.bias.zero_()
        model.head.distances.bias.fill_(1.0)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_training_gives_losses_and_evaluation_detections(name):
    model = build(name)
    losses = model(images_of((64, 64), (50, 70)), [BOXES, truth()], Step())
    assert {"class", "box", "quality"} <= set(losses)
    assert all(v.ndim == 0 and torch.isfinite(v) and v.requires_grad for v in losses.values())
    again, statistics = model.learn(images_of((64, 64), (50, 70)), [BOXES, truth()], Step())
    assert again.keys() == losses.keys()
    assert {"positives_per_box", "iou_of_positives"} <= set(statistics)
    assert all(not t.requires_grad and not n.requires_grad for t, n in statistics.values())
    results = scored(model).eval()(images_of((64, 64), (50, 70)))
    assert [sorted(r) for r in results] == [["boxes", "labels", "scores"]] * 2
    assert all(len(r["boxes"]) == len(r["scores"]) == len(r["labels"]) > 0 for r in results)


def test_training_without_assigner_or_targets_is_refused():
    with pytest.raises(ValueError, match=r"FCOS\.attach"):
        build()(images_of((64, 64)), [BOXES])
    with pytest.raises(ValueError, match="targets"):
        build("center")(images_of((64, 64)))


def test_images_are_padded_below_and_right_to_a_multiple_of_32():
    images = images_of((50, 70), (33, 20))
    batch = pad_images(images)
    assert batch.pixels.shape == (2, 3, 64, 96)
    assert batch.sizes == ((50, 70), (33, 20))
    for pixels, image in zip(batch.pixels, images, strict=True):
        height, width = image.shape[1:]
        assert torch.equal(pixels[:, :height, :width], image)
        fill = torch.tensor(FILL, dtype=torch.uint8)[:, None]
        assert (pixels[:, height:].flatten(1) == fill).all()
        assert (pixels[:, :, width:].flatten(1) == fill).all()


def test_float_images_are_the_same_as_bytes():
    images = images_of((40, 40))
    assert torch.equal(pad_images([images[0].float() / 255]).pixels, pad_images(images).pixels)


@pytest.mark.parametrize(
    "images", [[], [torch.zeros(1, 8, 8)], [torch.zeros(3, 8, 8), torch.zeros(8, 8)], [torch.zeros(3, 0, 8)]]
)
def test_what_is_no_image_is_refused(images):
    with pytest.raises(ValueError, match="image"):
        pad_images(images)


@pytest.mark.parametrize(
    ("mean", "std", "told"),
    [
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), False),  # ImageNet's, unless told otherwise
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), True),
        ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), True),
    ],
)
def test_the_network_sees_images_as_it_was_told_to(mean, std, told):
    batch = pad_images(images_of((64, 64), (40, 60)))
    model = build(pixel_mean=mean, pixel_std=std) if told else build()
    shift, scale = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std))
    expected = (batch.pixels.double() / 255 - shift) / scale
    torch.testing.assert_close(first_input(model, batch), expected, rtol=0, atol=1e-6)


def test_normalisation_goes_where_the_network_goes_and_is_nothing_learnt():
    model = build(pixel_mean=(0.5, 0.5, 0.5))
    assert not {"pixel_mean", "pixel_std"} & model.state_dict().keys()
    assert not {"pixel_mean", "pixel_std"} & dict(model.named_parameters()).keys()
    model.load_state_dict(build(seed=1).state_dict())
    assert model.pixel_mean.flatten().tolist() == [0.5] * 3
    assert model.to("meta").pixel_std.device.type == "meta"


def test_a_batch_finds_what_single_images_find():
    model = scored(build()).eval()
    images = images_of((64, 64), (50, 61), (33, 40))
    with torch.inference_mode():
        together = model(images)
        for image, result in zip(images, together, strict=True):
            # Alone on the same canvas: padding is part of what the network sees.
            canvas = pad_images([image, images[0]])
            (alone,) = model(ImageBatch(canvas.pixels[:1], canvas.sizes[:1]))
            assert len(alone["boxes"]) > 5
            assert torch.equal(result["labels"], alone["labels"])
            torch.testing.assert_close(result["scores"], alone["scores"], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(result["boxes"], alone["boxes"], rtol=1e-4, atol=1e-3)


def test_detections_stay_in_their_image():
    model = scored(build()).eval()
    for (height, width), result in zip(
        ((33, 64), (64, 40)), model(images_of((33, 64), (64, 40))), strict=True
    ):  # fmt: skip
        assert len(result["boxes"])
        assert (result["boxes"].amin(dim=0) >= 0).all()
        assert (result["boxes"].amax(dim=0) <= torch.tensor([width, height] * 2)).all()


def test_the_evaluated_network_has_no_trace_of_its_assigner():
    """Cost-free in inference: the same keys, the same bits, with any assigner and without."""
    images = images_of((64, 64), (50, 61))
    plain = scored(build()).eval()
    expected = plain(images)
    for name in NAMES:
        model = scored(build(name)).eval()
        state = model.network_state()
        assert list(state) == list(plain.state_dict())
        assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items())
        got = model(images)
        assert all(torch.equal(a[k], b[k]) for a, b in zip(expected, got, strict=True) for k in a)


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_network_evaluates_the_same_when_its_assigner_is_taken_away(name):
    model = scored(build(name))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images = images_of((64, 64), (50, 61))
    torch.stack(list(model(images, [BOXES, truth()]).values())).sum().backward()
    optimizer.step()
    model.eval()
    attached = model(images)
    bare = build(seed=9).eval()
    bare.load_state_dict(model.network_state())
    model.assigner = None
    for other in (model, bare):
        for a, b in zip(attached, other(images), strict=True):
            assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_a_box_trains_and_reaches_every_parameter(name):
    model = build(name)
    losses = model(images_of((64, 64), (50, 70)), [truth(), truth()], Step())
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(v) for v in losses.values())
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert missing == []  # a process whose share is empty must not keep its peers waiting for a gradient
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_dicts_and_collated_targets_are_the_same(name):
    images, rows = images_of((64, 64), (50, 70)), [BOXES | {"image_id": torch.tensor(7)}, truth()]
    model = build(name)
    grid = Grid.build(((8, 12), (4, 6), (2, 3), (1, 2), (1, 1)), (8, 16, 32, 64, 128))
    collated = Targets.collate(
        [r["boxes"] for r in rows], [r["labels"] for r in rows], grid, sizes=((64, 64), (50, 70)), image_ids=(7, 1)
    )
    first, second = model(images, rows, Step(3, 2)), model(images, collated, Step(3, 2))
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("name", NAMES)
def test_the_assigner_sees_what_it_needs_and_nothing_more(name):
    model = build(name)
    seen = []
    model.assigner.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[2]))
    model(images_of((64, 64)), [BOXES])
    (predictions,) = seen
    needs = type(model.assigner).needs
    if not (needs.predictions or needs.features):
        assert predictions is None
        return
    assert not any(t.requires_grad for t in (predictions.logits, predictions.quality, predictions.distances))
    assert bool(predictions.features) == needs.features
    assert all(f.requires_grad for f in predictions.features)


class SeesGradients(CenterSampling):
    needs = Needs(predictions=True, grads=True)
    declares = Declares(replaces=frozenset({"box", "quality"}))

    def forward(self, grid, targets, predictions, step):
        assert predictions.distances.requires_grad
        return super().forward(grid, targets, predictions, step)


def test_what_an_assigner_declares_is_kept():
    model = build().attach(SeesGradients(build().head_info))
    assert set(model(images_of((64, 64)), [BOXES])) == {"class"}


@pytest.mark.parametrize("name", NAMES)
def test_evaluating_first_does_not_spoil_the_remembered_grid(name):
    cached_grid.cache_clear()
    model = build(name)
    with torch.inference_mode():
        model.eval()(images_of((64, 64)))
    losses = model.train()(images_of((64, 64)), [BOXES])
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_offset_of_the_locations_is_a_setting():
    centre, corner = (build(point_offset=offset).eval() for offset in (0.5, 0.0))
    grids = [m.grid([torch.zeros(1, 1, 4, 4)] * 5) for m in (centre, corner)]
    assert grids[0].points[0].tolist() == [4.0, 4.0]
    assert grids[1].points[0].tolist() == [0.0, 0.0]


def test_a_second_assigner_finds_nothing_of_the_first():
    """POTO goes without NMS, AutoAssign replaces all losses and multiplies scores, PAA votes, TAL counts labels."""
    model, plain = build("center"), build("center")
    voting, counting = {"score_voting": True}, {"normalise_labels": True}
    for name, options in (("poto", {"nms": False}), ("auto_assign", {}), ("paa", voting), ("tal", counting)):
        model.attach(assigners.create(name, model.head_info, **options))
        assert (model.loss_settings, model.inference) != (plain.loss_settings, plain.inference)
    model.attach(assigners.create("center", model.head_info))
    assert (model.loss_settings, model.inference) == (plain.loss_settings, plain.inference)


def test_a_branch_without_target_and_loss_is_refused():
    model = build("center")
    assigner = assigners.create("atss", model.head_info)
    assigner.declares = Declares(quality="objectness")
    with pytest.raises(ValueError, match="objectness"):
        model.attach(assigner)
    assert model.loss_settings == LossSettings()


def test_the_loss_settings_reach_the_loss():
    images = images_of((64, 64))
    plain = build("center")(images, [BOXES])
    changed = build("center", loss=LossSettings(class_weight=2.0, box_weight=0.0))(images, [BOXES])
    torch.testing.assert_close(changed["class"], 2 * plain["class"])
    assert changed["box"].item() == 0
    assert torch.equal(changed["quality"], plain["quality"])


@pytest.mark.parametrize(("name", "steps"), [("center", 60), ("atss", 60), ("iqdet", 150)])
def test_it_learns_one_image_by_heart(name, steps):
    """Overfit: three flat rectangles on noise, of two classes. IQDet also has to learn where to look."""
    torch.manual_seed(0)
    image = torch.randint(0, 60, (3, 96, 96), dtype=torch.uint8)
    target = truth([(8, 10, 40, 38), (52, 20, 88, 76), (14, 56, 42, 88)], [0, 1, 0])
    for box, label, colour in zip(target["boxes"].int().tolist(), target["labels"], (220, 150, 250), strict=True):
        image[int(label), box[1] : box[3], box[0] : box[2]] = colour
    model = build(
        name, classes=2, channels=32, frozen_bn=True, inference=InferenceSettings(score_threshold=0.1)
    ).train()  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    history = []
    for index in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - index / steps)
        losses = model([image], [target], Step(0, index, index / steps))
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        history.append((losses["class"].item(), losses["box"].item()))
    assert history[-1][0] < 0.3 * history[0][0], history[::10]
    assert history[-1][1] < 0.6 * history[0][1], history[::10]
    with torch.inference_mode():
        (result,) = model.eval()([image])
    for box, label in zip(target["boxes"], target["labels"], strict=True):
        same = result["labels"] == label
        assert same.any(), result
        assert aligned_iou(result["boxes"][same], box).max() > 0.5, result
