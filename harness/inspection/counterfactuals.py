"""Why a box has the positives that it has, or none: the assigner is asked again about images that differ in one thing.

Three counterfactuals answer for any assigner, without a line about a particular one: the box alone in its image; the
image without those that hold its places, one after another; the box enlarged about its centre. A box keeps its noise
through all of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from assigners.contract import Step
from assigners.grid import inside_range
from assigners.ops.boxes import aligned_iou
from detector import FCOS
from harness.core.text import counted
from harness.inspection.one_image import FIRST_LEVEL, ImageAssignment, View, assign, fate

Verdict = Literal["too small", "crowd", "difficult", "ignored", "positive", "no location", "taken", "rule"]

GROWTH = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # factors on both sides that are tried
MOST_REMOVED = 16  # boxes taken away in search of the one that has the places


@dataclass(frozen=True)
class Explanation:
    """The answer for one box.

    Attributes:
        box: its number in the data set.
        verdict: the reason in a word or two.
        text: the answer in full.
        inside: locations strictly inside, per level.
        now: positives in the image as it is, per level.
        alone: positives with the box alone in the image, per level.
        lost: positives that it would have alone and has not: level, x, y in pixels of the resized image.
        taken_by: who has a positive now where it would have one alone: box and number of places.
        without: boxes whose absence, in this order, gives it its first positives.
        freed: how many these are.
        grown: the smallest factor on its sides with which it has positives alone, and how many.
    """

    box: int
    verdict: Verdict
    text: str
    inside: tuple[int, ...] = ()
    now: tuple[int, ...] = ()
    alone: tuple[int, ...] = ()
    lost: tuple[tuple[int, float, float], ...] = ()
    taken_by: tuple[tuple[int, int], ...] = ()
    without: tuple[int, ...] = ()
    freed: int = 0
    grown: tuple[float, int] | None = None

    def as_json(self) -> dict[str, Any]:
        """The explanation as plain JSON values."""
        return asdict(self)


def explain(model: FCOS, view: View, step: Step, drawn: ImageAssignment, row: int) -> Explanation:
    """Answer for the object `row` of a view whose assignment is `drawn`."""
    status = fate(view, row)
    if status != "assigned":
        return _never_assigned(view, row, status)
    position, grid = view.rows.index(row), view.grid
    first, last = inside_range(grid, view.targets.boxes[position][None])
    inside = (last - first).clamp(min=0).prod(dim=-1)[0].tolist()
    lonely = assign(model, view, step, [position])
    now, alone = (each.per_level(position, grid.num_levels) for each in (drawn, lonely))
    holders = _holders(lonely, drawn, position)
    without: list[int] = []
    freed, grown = 0, None
    verdict: Verdict = "positive"
    if not sum(now):
        verdict = "taken" if sum(alone) else "rule" if sum(inside) else "no location"
        if sum(alone):
            without, freed = _remove_until_positive(model, view, step, drawn, lonely, position)
        else:
            grown = _grow(model, view, step, position)
    held = {_place(drawn, i) for i in drawn.of(position)}
    explanation = Explanation(
        box=row,
        verdict=verdict,
        text="",
        inside=tuple(inside),
        now=tuple(now),
        alone=tuple(alone),
        lost=tuple(place for i in lonely.of(position) if (place := _place(lonely, i)) not in held),
        taken_by=tuple((view.rows[box], count) for box, count in holders.most_common()),
        without=tuple(view.rows[box] for box in without),
        freed=freed,
        grown=grown,
    )
    return replace(explanation, text=_words(view, explanation))


def _never_assigned(view: View, row: int, status: str) -> Explanation:
    x1, y1, x2, y2 = view.scaled(row)
    if status == "too small":
        height, width = view.size
        text = (
            f"box {row} is {x2 - x1:.2f} x {y2 - y1:.2f} px in the image resized to {width} x {height}; boxes with a "
            "side under 1 px are dropped before any assigner sees them; a larger data.short_edge would keep it"
        )
        return Explanation(row, "too small", text)
    what = "a crowd region" if view.objects.crowd[row] else "a difficult object"
    if status == "ignored":
        text = f"box {row} is {what}: no object to learn, and the locations inside are no negatives"
        return Explanation(row, "ignored", text)
    key: Literal["crowd", "difficult"] = "crowd" if view.objects.crowd[row] else "difficult"
    return Explanation(row, key, f"box {row} is {what}, and the protocol drops these (data.{key} = drop)")


def _holders(lonely: ImageAssignment, drawn: ImageAssignment, position: int) -> Counter[int]:
    """Which other boxes have positives at the places that a box would have alone."""
    places = {_place(lonely, i) for i in lonely.of(position)}
    return Counter(
        int(drawn.box[i])
        for i in range(len(drawn.box))
        if drawn.positive[i] and drawn.box[i] != position and _place(drawn, i) in places
    )


def _place(drawn: ImageAssignment, index: int) -> tuple[int, float, float]:
    x, y = (round(float(value), 3) for value in drawn.xy[index])
    return int(drawn.level[index]), x, y


def _remove_until_positive(
    model: FCOS, view: View, step: Step, drawn: ImageAssignment, lonely: ImageAssignment, position: int
) -> tuple[list[int], int]:
    """Take away whoever has most of its places, else who overlaps it most, until the box has a positive.

    Returns:
        the boxes and how many positives it then has; none where more than `MOST_REMOVED` would have to go.
    """
    overlap = aligned_iou(view.targets.boxes, view.targets.boxes[position]).tolist()
    present = list(range(view.targets.num_boxes))
    removed: list[int] = []
    while not len(drawn.of(position)):
        if len(removed) == MOST_REMOVED:
            return [], 0
        holders = _holders(lonely, drawn, position)
        others = [box for box in present if box != position]
        gone = max(others, key=lambda box: (holders[box], overlap[box]))
        removed.append(gone)
        present.remove(gone)
        drawn = assign(model, view, step, present)
    return removed, len(drawn.of(position))


def _grow(model: FCOS, view: View, step: Step, position: int) -> tuple[float, int] | None:
    corners = view.targets.boxes[position].cpu()
    centre, half = (corners[:2] + corners[2:]) / 2, (corners[2:] - corners[:2]) / 2
    for factor in GROWTH:
        larger = torch.cat((centre - factor * half, centre + factor * half))[None]
        count = len(assign(model, view, step, [position], larger).of(position))
        if count:
            return factor, count
    return None


def _words(view: View, answer: Explanation) -> str:
    box, now, alone = answer.box, sum(answer.now), sum(answer.alone)
    holders = _listed([f"box {other} ({_relation(view, box, other)}) has {n} of them" for other, n in answer.taken_by])
    if answer.verdict == "positive":
        text = f"box {box} has {counted(now, 'positive')} ({by_level(answer.now)})"
        if alone == now and not holders:
            return f"{text}, the same as alone in the image"
        return f"{text}; alone in the image it would have {alone}{'; of those places ' + holders if holders else ''}"
    if answer.verdict == "taken":
        text = f"box {box} has no positive; alone in the image it would have {alone} ({by_level(answer.alone)})"
        text += f"; {holders}" if holders else ""
        if not answer.without:
            return f"{text}; more than {MOST_REMOVED} other boxes would have to go before it had one"
        names = _listed([str(other) for other in answer.without])
        plural = "boxes" if len(answer.without) > 1 else "box"
        return f"{text}; without {plural} {names} it has {counted(answer.freed, 'positive')}"
    if answer.verdict == "no location":
        text = f"box {box} has no positive: no location of any level lies inside it (the finest stride is "
        text += f"{view.grid.strides[0]} px), and the assigner gives it none even alone in the image"
    else:
        locations = f"{counted(sum(answer.inside), 'location')} inside ({by_level(answer.inside)})"
        text = f"box {box} has no positive: {locations}, but the assigner takes none of them even with the box alone "
        text += "in the image: its own rule (range, threshold or scores) leaves them out, no other box"
    if answer.grown is None:
        return text
    factor, count = answer.grown
    return f"{text}; {factor:g} times as large about its centre it would have {counted(count, 'positive')}"


def by_level(counts: tuple[int, ...]) -> str:
    """``P3 4, P4 2``, levels without any left out."""
    return ", ".join(f"P{FIRST_LEVEL + level} {count}" for level, count in enumerate(counts) if count) or "none"


def _relation(view: View, row: int, other: int) -> str:
    """How another box compares: its class, size and IoU."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = view.scaled(row), view.scaled(other)
    ratio = ((bx2 - bx1) * (by2 - by1)) / max((ax2 - ax1) * (ay2 - ay1), 1e-9)
    size = "of the same size" if abs(ratio - 1) < 0.01 else "smaller" if ratio < 1 else "larger"
    both = torch.tensor([[ax1, ay1, ax2, ay2], [bx1, by1, bx2, by2]])
    return f"{view.class_name(other)}, {size}, IoU {float(aligned_iou(both[0], both[1])):.2f}"


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1] if words else ""]))
