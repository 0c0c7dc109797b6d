"""The picture of an inspection: the samples over the image, the quality distribution beside, one box under the lens."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from assigners.rules.iqdet.encoder import Mixture
from harness.drawing.images import GREY, VERMILION, WHITE, LegendEntry, Panel, Pen, sheet
from harness.inspection.counterfactuals import Explanation
from harness.inspection.one_image import FIRST_LEVEL, ImageAssignment, View, fate, quality_map

PAIR_SIDE = 900  # px of a panel that has a neighbour
LENS_SIDE = 400  # px of a panel that shows one box on one level
LENSES_PER_ROW = 3
MARGIN = 0.4  # of a box's longer side, around it under the lens
SMALLEST_WINDOW = 24  # px of the image under the lens
SPACING = 6  # px of the finished picture between two locations, below which drawing them would hide the image


def draw(
    view: View,
    drawn: ImageAssignment,
    mixture: tuple[Mixture, Tensor] | None,
    explanation: Explanation | None,
    title: str,
) -> Image.Image:
    """Compose the sheet.

    Args:
        mixture: quality distributions ``[G, L]`` and usable levels ``[G, L]``, for assigners that have them.
        explanation: of one box, to look at closely.
    """
    rows = [[overview(view, drawn, explanation, PAIR_SIDE if mixture else 1000)]]
    if mixture is not None:
        rows[0].append(quality_panel(view, drawn, *mixture, PAIR_SIDE))
    if explanation is not None and explanation.box in view.rows:
        lenses = [_lens(view, drawn, mixture, explanation, level) for level in _levels_of(explanation)]
        rows += [lenses[i : i + LENSES_PER_ROW] for i in range(0, len(lenses), LENSES_PER_ROW)]
    return sheet(rows, title, _legend(view, drawn, mixture is not None, explanation))


def overview(view: View, drawn: ImageAssignment, explanation: Explanation | None, side: int) -> Panel:
    """The image with every box and every sample, its longer edge enlarged towards `side` px."""
    panel = Panel(view.pixels, title="samples", side=side)
    _boxes(panel, view, explanation)
    for index in np.argsort(-drawn.level, kind="stable"):  # coarse ones first: they are larger
        _sample(panel, drawn, int(index))
    return panel


def _boxes(panel: Panel, view: View, explanation: Explanation | None) -> None:
    for row in range(len(view.objects)):
        if fate(view, row) == "ignored":
            panel.hatch(view.scaled(row))
    chosen = explanation.box if explanation is not None else -1
    for row in sorted(range(len(view.objects)), key=lambda row: row == chosen):  # the chosen one on top
        status = fate(view, row)
        words = f"{row} {view.class_name(row)}{'' if status == 'assigned' else f' ({status})'}"
        colour = VERMILION if row == chosen else WHITE if status == "assigned" else GREY
        panel.box(view.scaled(row), words, colour, width=2.4 if row == chosen else 1.2)


def _sample(panel: Panel, drawn: ImageAssignment, index: int, *, foreign: bool = False) -> None:
    (x, y), level = drawn.xy[index].tolist(), int(drawn.level[index])
    if drawn.positive[index]:
        panel.dot(x, y, level, float(drawn.label[index]), foreign=foreign)
    else:
        panel.cross(x, y, level)


def quality_panel(view: View, drawn: ImageAssignment, mixture: Mixture, usable: Tensor, side: int) -> Panel:
    """Q over the image, with the components of each box on the level that has most of its positives."""
    panel = Panel(view.pixels, title="quality distribution Q, the largest over boxes and levels", side=side)
    panel.heat(quality_map(view, mixture, usable))
    for box, row in enumerate(view.rows):
        panel.box(view.scaled(row), "", WHITE, width=0.8)
        counts = drawn.per_level(box, view.grid.num_levels)
        if sum(counts):
            _components(panel, view, mixture, box, counts.index(max(counts)))
    return panel


def _components(panel: Panel, view: View, mixture: Mixture, box: int, level: int) -> None:
    corners = view.targets.boxes[box].cpu()
    centre, half = (corners[:2] + corners[2:]) / 2, (corners[2:] - corners[:2]) / 2
    weight = mixture.log_pi[box, level].softmax(dim=-1)
    for mu, sigma, share in zip(mixture.mu[box, level], mixture.sigma[box, level], weight / weight.max(), strict=True):
        x, y = (centre + mu * half).tolist()
        width, height = (sigma * half).tolist()
        panel.component((x, y), (width, height), level, float(share))


def _levels_of(explanation: Explanation) -> list[int]:
    """The levels with positives, be it alone; else those with locations inside; else the finest."""
    pairs = zip(explanation.now, explanation.alone, strict=True)
    positive = [level for level, counts in enumerate(pairs) if any(counts)]
    return positive or [level for level, count in enumerate(explanation.inside) if count] or [0]


def _lens(
    view: View, drawn: ImageAssignment, mixture: tuple[Mixture, Tensor] | None, explanation: Explanation, level: int
) -> Panel:
    """One box on one level: the locations there, whose samples they are, and where it would have its own."""
    position = view.rows.index(explanation.box)
    inside, alone, now = explanation.inside[level], explanation.alone[level], explanation.now[level]
    window = _window(view, explanation.box)
    panel = Panel(
        view.pixels,
        title=f"P{FIRST_LEVEL + level}, stride {view.grid.strides[level]}: inside {inside}, alone {alone}, now {now}",
        side=LENS_SIDE,
        window=window,
    )
    if mixture is not None and bool(mixture[1][position, level]):
        shown = torch.zeros_like(mixture[1])
        shown[position, level] = True
        panel.heat(quality_map(view, mixture[0], shown))
        _components(panel, view, mixture[0], position, level)
    if panel.factor * view.grid.strides[level] >= SPACING:
        for x, y in view.grid.points[view.grid.level == level].tolist():
            if window[0] <= x < window[2] and window[1] <= y < window[3]:
                panel.spot(x, y)
    for other in sorted({*explanation.without, *(box for box, _ in explanation.taken_by)}):
        panel.box(view.scaled(other), str(other), WHITE, width=1.2)
    panel.box(view.scaled(explanation.box), str(explanation.box), VERMILION, width=2.4)
    mine = drawn.box == position
    for index in np.flatnonzero((drawn.level == level) & (mine | drawn.positive)):
        _sample(panel, drawn, int(index), foreign=not mine[index])
    for at, x, y in explanation.lost:
        if at == level:
            panel.ring(x, y, level)
    return panel


def _window(view: View, row: int) -> tuple[int, int, int, int]:
    """Whole pixels around a box, within the image."""
    x1, y1, x2, y2 = view.scaled(row)
    height, width = view.size
    reach = max((x2 - x1) / 2, (y2 - y1) / 2) * (1 + 2 * MARGIN)
    reach = max(reach, SMALLEST_WINDOW / 2)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    left, top = max(int(x - reach), 0), max(int(y - reach), 0)
    return left, top, min(int(np.ceil(x + reach)), width), min(int(np.ceil(y + reach)), height)


def _legend(view: View, drawn: ImageAssignment, quality: bool, explanation: Explanation | None) -> list[LegendEntry]:
    closely = explanation is not None and explanation.box in view.rows
    entries = [
        LegendEntry(partial(Pen.dot, level=at, label=1.0), f"P{FIRST_LEVEL + at}, stride {view.grid.strides[at]}")
        for at in sorted(set(drawn.level.tolist()))
    ]
    if len(drawn.box):
        entries += [LegendEntry(partial(Pen.dot, level=0, label=of), f"label {of:g}") for of in (0.0, 0.5, 1.0)]
    if not drawn.positive.all():
        entries.append(LegendEntry(lambda pen, x, y: pen.cross(x, y, 0), "sample, not positive"))
    if view.ignored:
        entries.append(LegendEntry(lambda pen, x, y: pen.hatch((x - 18, y - 14, x + 18, y + 14)), "no negatives"))
    if quality:
        entries.append(LegendEntry(_ellipses, "component, 1 and 2 sigma"))
        entries.append(LegendEntry(lambda pen, x, y: pen.bar(x, y, 22), "Q from 0 to 1"))
    if closely:
        entries.append(LegendEntry(lambda pen, x, y: pen.spot(x, y), "location"))
        if explanation is not None and explanation.lost:
            entries.append(LegendEntry(lambda pen, x, y: pen.ring(x, y, 0), "positive if it were alone"))
        entries.append(LegendEntry(lambda pen, x, y: pen.dot(x, y, 0, 1.0, foreign=True), "positive of another box"))
    return entries


def _ellipses(pen: Pen, x: float, y: float) -> None:
    pen.ellipse(x, y, (8, 6), 0, 1.8)
    pen.ellipse(x, y, (18, 13), 0, 0.9)
