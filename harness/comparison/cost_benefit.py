"""Cost against benefit: what an assigner adds to AP, and the time and memory that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.bench.batches import USUAL_CLASSES, USUAL_IMAGES
from harness.bench.measurements import Line, number_of
from harness.comparison.board import METRIC, Board
from harness.comparison.intervals import Interval
from harness.drawing.charts import INK, LETTER, RULE, colour, log_scale, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOXES = 100  # in each image: where assigners begin to differ in cost
ROW = 0.21  # inches of a line of names
LEADER = {"arrowstyle": "-", "color": RULE, "shrinkB": 4, "relpos": (0, 0.5)}  # from a name to its point


@dataclass(frozen=True)
class Benefit:
    """One assigner."""

    name: str  # as ``--assigner`` takes it
    ap: Interval  # over seeds
    ms: float  # for `USUAL_IMAGES` images of `BOXES` boxes each
    mib: float  # for the same
    trains: bool  # whether the cost is of forward and backward, for it has a network or losses of its own


def benefits(board: Board, lines: Iterable[Line]) -> list[Benefit]:
    """Assigners at their defaults of which both AP and cost are known, best first.

    Args:
        lines: measurements of one machine and image size.
    """
    usual = (str(USUAL_IMAGES), str(BOXES), str(USUAL_CLASSES))
    costs = {line["assigner"]: line for line in lines if (line["images"], line["boxes"], line["classes"]) == usual}
    known = []
    for entry in board.entries:
        line, ap = costs.get(entry.name), entry.interval(METRIC)
        ms, mib = (number_of(line, name) for name in ("ms", "mib")) if line is not None else (None, None)
        if line is not None and ap.mean is not None and ms and mib:
            known.append(Benefit(entry.name, ap, ms, mib, line["passes"] != "forward"))
    return known


def front(points: Sequence[Benefit], cost: Callable[[Benefit], float]) -> list[Benefit]:
    """Those that nothing cheaper reaches in mean AP, from the cheapest on."""
    best: list[Benefit] = []
    for point in sorted(points, key=lambda p: (cost(p), -_mean(p))):
        if not best or _mean(point) > _mean(best[-1]):
            best.append(point)
    return best


@styled
def draw(points: Sequence[Benefit], title: str, below: str) -> Figure:
    """AP over time and over memory, each point named at the right in the order of AP.

    Args:
        points: at least one.
        title: what the APs are of.
        below: where the costs were measured.
    """
    legend = "whiskers: 95 % over seeds; dashed: what nothing cheaper reaches; *: forward and backward"
    longest = max(len(_label(point)) for point in points)
    figure = new_figure(11 + 2 * LETTER * longest, max(6.0, 2 + ROW * len(points)), title, f"{legend}\n{below}")
    time, memory = figure.subplots(1, 2)
    words = f"for {USUAL_IMAGES} images of {BOXES} boxes each"
    _panel(time, points, f"time, ms, {words}", lambda point: point.ms)
    _panel(memory, points, f"peak memory, MiB, {words}", lambda point: point.mib)
    return figure


def _panel(axes: Axes, points: Sequence[Benefit], words: str, cost: Callable[[Benefit], float]) -> None:
    costs = [cost(point) for point in points]
    axes.set(title=METRIC, xlabel=words, xlim=(min(costs) / 1.3, max(costs) * 1.3))
    log_scale(axes, "x", costs)
    best = front(points, cost)
    steps = [*map(cost, best), 2 * max(costs)], [*map(_mean, best), _mean(best[-1])]
    axes.step(*steps, where="post", color=INK, linewidth=1, dashes=(5, 3), zorder=1)
    for row, point in enumerate(sorted(points, key=_mean, reverse=True)):
        place, ink = (cost(point), _mean(point)), colour(row)
        if point.ap.low is not None and point.ap.high is not None:
            axes.plot([place[0]] * 2, [point.ap.low, point.ap.high], color=ink, linewidth=1)
        axes.plot(*place, "o", color=ink, markersize=6)
        axes.annotate(
            _label(point), place, (1.06, 1 - (row + 0.5) / max(len(points), 20)), textcoords="axes fraction",
            color=ink, va="center", zorder=1, arrowprops=LEADER,
        )  # fmt: skip


def _mean(point: Benefit) -> float:
    assert point.ap.mean is not None
    return point.ap.mean


def _label(point: Benefit) -> str:
    return f"{point.name}{' *' if point.trains else ''}  {_mean(point):.1f}"
