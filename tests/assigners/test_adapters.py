"""torchvision's FCOS with an assigner of the zoo in place of its own matching."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS

from assigners.adapters.torchvision_fcos import use_assigner
from assigners.registry import UnknownName

CLASSES = 4
GRID_ASSIGNERS = ["center", "atss", "paa"]


class Pyramid(nn.Module):
    """Five levels of a few channels at strides 8 to 128."""

    out_channels = 32  # torchvision's head normalises in 32 groups

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 8, stride=8), nn.ReLU())
        self.down = nn.ModuleList(nn.Conv2d(32, 32, 3, stride=2, padding=1) for _ in range(4))

    def forward(self, images):
        levels = [self.stem(images)]
        for layer in self.down:
            levels.append(layer(levels[-1]).relu())
        return dict(enumerate(levels))


def detector():
    torch.manual_seed(0)
    model = FCOS(Pyramid(), CLASSES, min_size=128, max_size=256)
    model.head.classification_head.conv = nn.Identity()  # one layer is enough to learn with, and quick
    model.head.regression_head.conv = nn.Identity()
    return model


def scene(seed, counts=(3, 0), sizes=((128, 160), (100, 128))):
    rng = np.random.default_rng(seed)
    images, targets = [], []
    for (height, width), count in zip(sizes, counts, strict=True):
        low = rng.uniform(0, (width / 2, height / 2), (count, 2))
        side = rng.uniform(6, (width / 2, height / 2), (count, 2))
        boxes = np.concatenate((low, low + side), axis=1).astype(np.float32)
        images.append(torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)))
        targets.append({"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(rng.integers(0, CLASSES, count))})
    return images, targets


@pytest.mark.parametrize("name", GRID_ASSIGNERS)
@pytest.mark.parametrize("counts", [(3, 0), (0, 0), (40, 1)])
def test_losses_are_finite_and_reach_every_parameter(name, counts):
    model = detector()
    use_assigner(model, name)
    losses = model(*scene(0, counts))
    assert set(losses) == {"classification", "bbox_regression", "bbox_ctrness"}
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def matched(model, images, targets):
    """What the model hands to its loss as ``matched_idxs``."""
    seen = []
    original = model.head.compute_loss

    def note(targets, outputs, anchors, matched_idxs):
        seen.append([m.clone() for m in matched_idxs])
        return original(targets, outputs, anchors, matched_idxs)

    model.head.compute_loss = note
    model(images, targets)
    del model.head.compute_loss
    return torch.stack(seen[0])


@pytest.mark.parametrize("seed", range(5))
def test_center_matches_as_torchvision_does(seed):
    # Boxes of random reals: no reach ends exactly on a level's border, no two areas agree to 8 px^2 by design of the
    # draw; there the two rules state the same. Images fill multiples of 128 px, or torchvision's spacing would differ.
    model, zoo = detector(), detector()
    use_assigner(zoo, "center", radius=1.5)
    images, targets = scene(seed, (12, 5), ((128, 256), (128, 256)))
    own, ours = matched(model, images, targets), matched(zoo, images, targets)
    assert (own >= 0).sum() > 20
    assert torch.equal(own, ours)


def test_options_reach_the_assigner():
    images, targets = scene(1, (12, 5))
    wide, narrow = detector(), detector()
    assert use_assigner(wide, "center", radius=2.5).options["radius"] == 2.5
    use_assigner(narrow, "center", radius=0.5)
    assert (matched(wide, images, targets) >= 0).sum() > (matched(narrow, images, targets) >= 0).sum()


@pytest.mark.parametrize("name", GRID_ASSIGNERS)
def test_a_few_steps_reduce_the_loss(name):
    model = detector()
    use_assigner(model, name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    images, targets = scene(2, (3, 2))
    history = []
    for _ in range(15):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.7 * history[0]
    detections = model.eval()(images)
    assert all(set(found) == {"boxes", "scores", "labels"} for found in detections)


def test_sizes_that_are_no_multiple_of_the_strides_are_padded():
    model = detector()
    use_assigner(model, "atss")
    assert model.transform.size_divisible == 128
    images, targets = scene(3, (4, 4), ((104, 250), (128, 130)))
    assert torch.isfinite(sum(model(images, targets).values()))


def test_a_copy_trains_with_its_own_parts():
    model = detector()
    use_assigner(model, "atss")
    twin = copy.deepcopy(model)
    assert twin.compute_loss.__self__ is twin
    assert twin.assigner is not model.assigner
    assert model.state_dict().keys() == detector().state_dict().keys()


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("iqdet", {}, "iqdet needs gradients, features or parameters of its own"),
        ("fixed_qd", {}, "FixedQuality answers with float locations, weights, soft labels"),
        ("uniform_center", {}, "UniformCenter answers with float locations"),
        ("paa", {"score_voting": True}, "paa declares other losses or another inference"),
    ],
)
def test_what_torchvision_cannot_express_is_refused_before_training(name, options, reason):
    model = detector()
    with pytest.raises(ValueError, match=f"{reason}.*; take a hard grid assigner such as center, atss or paa"):
        use_assigner(model, name, **options)
    assert not hasattr(model, "assigner")
    assert model.compute_loss.__func__ is FCOS.compute_loss


def test_a_wrong_name_or_model_is_named():
    with pytest.raises(UnknownName, match="did you mean 'atss'"):
        use_assigner(detector(), "atts")
    with pytest.raises(TypeError, match="takes torchvision's FCOS, got Linear"):
        use_assigner(nn.Linear(2, 2), "atss")
