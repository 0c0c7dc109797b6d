"""`harness verify` of assigners with losses over predictions: what breaks one is caught by the check made for it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from harness.verify.checks.catalogue import CHECKS, run_check
from harness.verify.subject import find_subject

# A sound likelihood assigner without samples, whose prior is learned per class, and what is changed to break it.
LIKELY = """
import torch
from torch import nn
from torch.nn import functional as F
from assigners import Assigner, Assignment, HeadInfo, Samples
from assigners.parts.candidates import inside_pairs
from assigners.contract import Declares, Needs
from assigners.parts.negatives import negatives_outside_ignore
from assigners.ops.boxes import giou_loss


class Likely(Assigner):
    needs = Needs(predictions=True, grads=True)
    declares = Declares(replaces=frozenset({"class", "box", "quality"}), quality="objectness")

    def __init__(self, head: HeadInfo) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(head.num_classes))

    def forward(self, grid, targets, predictions, step):
        logits, quality, boxes = (getattr(predictions, n).float() for n in ("logits", "quality", "boxes"))
        pairs = inside_pairs(grid, targets)
        gt, location = pairs.gt, pairs.location
        image, label, truth = targets.image[gt], targets.labels[gt], targets.boxes[gt]
        cell = image * grid.num_locations + location
        own = logits.flatten(0, 1)[cell].gather(1, label[:, None]).squeeze(1)
        predicted = boxes.flatten(0, 1)[cell]
        background = negatives_outside_ignore(grid, targets)
        weight = torch.ones_like(own)
        # HERE
        cost = F.softplus(-own - self.bias[label]) + F.softplus(-quality.flatten()[cell])
        positive = (weight * (cost + giou_loss(predicted, truth))).sum() + 0 * self.bias.sum()
        taken = torch.zeros(logits.numel()).index_fill(0, cell * logits.shape[-1] + label, 1.0).view_as(logits)
        u = logits.sigmoid() * quality.sigmoid()[..., None]
        negative = (background[..., None] * (1 - taken) * u.square() * -torch.log1p(-u.clamp(max=1 - 1e-6))).sum()
        count = torch.tensor(float(len(gt)))
        losses = {"positive": (positive, count), "negative": (negative, count)}
        nothing = torch.zeros(0, dtype=torch.long)
        samples = Samples.at_locations(grid, nothing, nothing, nothing.bool())
        # THERE
        return Assignment(samples, background, losses)
"""

OUTSIDE = "predicted = boxes.flatten(0, 1)[(cell + 3).clamp(max=boxes.shape[0] * boxes.shape[1] - 1)]"
WRONG_CLASS = "own = logits.flatten(0, 1)[cell].gather(1, (label[:, None] + 1) % logits.shape[-1]).squeeze(1)"
DIVIDED = "weight = weight / max(len(weight), 1)"
FIRST_OF_ALL = "weight = 1 + (gt == 0).float()"
RIGHT_HALF = "weight = 1 + (location % 16 > 8).float()"
BARE_ROOT = "weight = (1 - own.sigmoid()).sqrt()"
NO_REGIONS = "background = torch.ones_like(background)"
ZERO_CLASS = "weight = 1 + (label == 0).float()"
VALUES = "weight = torch.ones(int((own > -1e9).sum()))"
WAY_BACK = """
class Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()
    @staticmethod
    def backward(ctx, g):
        return g * (1 if g.sum().item() > 0 else 1)
own = Slow.apply(own)
"""
DENSE = "weight = weight + 0 * (boxes[0, :, None, 0] - targets.boxes[None, :, 0]).sum()"
CUT_BOXES = "predicted = predicted.detach()"
NO_BACKGROUND = 'losses = {"positive": losses["positive"]}'
HIDDEN = "losses = {k: (torch.nan_to_num(v), c) for k, (v, c) in losses.items()}"
LEAK = "background = background * (1 + 0 * logits.mean())"
CLAMPED_COUNT = 'losses["positive"] = (positive, count.clamp(min=1))'
STRANGER = 'self.declares = Declares(replaces=frozenset({"class", "box", "quality", "all"}))'


def likely(folder: Path, here: str = "", there: str = "", name: str = "likely.py") -> Path:
    path = folder / name
    here, there = (textwrap.indent(textwrap.dedent(text).strip(), " " * 8).strip() for text in (here, there))
    path.write_text(LIKELY.replace("# HERE", here).replace("# THERE", there), "utf-8")
    return path


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return find_subject(str(likely(tmp_path_factory.mktemp("sound")))).factory


@pytest.mark.parametrize("check", [check for check in CHECKS if not check.needs_cuda], ids=lambda check: check.name)
def test_a_sound_likelihood_passes_every_check(sound, check):
    outcome = run_check(check, sound, scale=0.3)
    assert outcome.status == "passed", (outcome.message, outcome.scene)


@pytest.mark.parametrize(
    ("name", "here", "there", "message"),
    [
        ("taught-inside", OUTSIDE, "", "no gradient of the distances at locations that no box holds"),
        ("taught-inside", WRONG_CLASS, "", "no class logit pulled up where no box of that class"),
        ("taught-inside", CUT_BOXES, "", "expected the losses to teach distances"),
        ("taught-batching", DIVIDED, "", "in its batch and alone: expected the same gradient"),
        ("batching", DIVIDED, "", "expected the same sum of loss 'positive'"),
        ("batching", "", CLAMPED_COUNT, "expected the same count of loss 'positive'"),
        ("taught-order", FIRST_OF_ALL, "", "in another order: expected the same gradient"),
        ("order", FIRST_OF_ALL, "", "in another order: expected the same sum of loss 'positive'"),
        ("taught-place", RIGHT_HALF, "", "everything moved by"),
        ("taught-wild", BARE_ROOT, "", "expected a finite gradient of predictions.logits"),
        ("taught-ignore", NO_REGIONS, "", "no logit pushed down as background inside an ignore region"),
        ("names", ZERO_CLASS, "", "the classes renamed: expected the same sum of loss 'positive'"),
        ("shapes", VALUES, "", "without reading a value on the host"),
        ("shapes", WAY_BACK, "", "without reading a value on the host"),
        ("crowd", DENSE, "", "never on boxes x locations"),
        ("no-boxes", "", NO_BACKGROUND, "push a logit down at every location"),
        ("reached", CUT_BOXES, "", "predictions.distances is not connected"),
        ("broken", "", HIDDEN, "or nobody would notice"),
        ("detached", LEAK, "", "negative_weight: expected a detached value"),
        ("form", "", STRANGER, "declares.replaces"),
    ],
)
def test_a_defect_is_caught_by_the_check_made_for_it(tmp_path, name, here, there, message):
    check = next(check for check in CHECKS if check.name == name)
    outcome = run_check(check, find_subject(str(likely(tmp_path, here, there))).factory)
    assert outcome.status == "failed"
    assert message in outcome.message
    assert outcome.message.count("\n") == 0


def test_what_has_no_losses_over_predictions_is_not_asked_for_their_gradients():
    subject = find_subject("center")
    asked = {check.name: run_check(check, subject.factory, scale=0.05) for check in CHECKS if check.of_gradients}
    assert asked
    assert {outcome.status for outcome in asked.values()} == {"skipped"}
    assert all(outcome.message == "asked only of losses over predictions" for outcome in asked.values())
