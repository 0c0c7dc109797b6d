"""The picture of an insight: who agrees with whom, a heat map for all boxes and one for each size among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.analysis.agreement import Insight
from harness.core.text import counted
from harness.drawing.charts import INK, LETTER, RULE, new_figure, styled
from harness.drawing.images import heat_colour, ink_on

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 0.42  # inches
NOTE = "Jaccard index of the positives' bilinear mass, scaled to 1 per box"


@styled
def draw(insight: Insight, title: str) -> Figure:
    """Heat maps of the Jaccard index by bilinear mass, side by side; a size without boxes is left out."""
    names = [str(row["name"]) for row in insight.assigners]
    maps = [(size, part) for size, part in insight.agreement.items() if part["boxes"]]
    side, label = CELL * len(names), LETTER * max(map(len, names))
    width = max(label + (side + 0.5) * len(maps) + 0.5, 1.3 * LETTER * len(title), LETTER * len(NOTE))
    figure = new_figure(width, label + side + 1.4, title, NOTE)
    figure.set_layout_engine("compressed")  # squares leave no room between them
    row = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    for axes, (size, part) in zip(row, maps, strict=True):
        values = np.array(part["mass"], dtype=np.float64)  # None becomes NaN
        axes.imshow(values, vmin=0, vmax=1)
        axes.set_xlabel(f"{size if size != 'all' else 'all sizes'}, {counted(part['boxes'], 'box', 'es')}")
        axes.set_xticks(range(len(names)), names, rotation=90, color=INK)
        axes.set_yticks(range(len(names)), names, color=INK)
        axes.xaxis.tick_top()
        axes.grid(visible=False)
        for (down, across), value in np.ndenumerate(values):
            known = np.isfinite(value)
            ink = INK if not known else "#{:02x}{:02x}{:02x}".format(*ink_on(heat_colour(value)))
            axes.text(across, down, f"{value:.2f}" if known else "-", ha="center", va="center", color=ink)
        axes.set_facecolor(RULE)  # of what is not defined
    figure.colorbar(row[-1].images[0], ax=list(row), shrink=0.8, aspect=30, pad=0.01)
    return figure
