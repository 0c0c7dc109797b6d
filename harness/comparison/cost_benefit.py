"""Cost against benefit: what an assigner adds to AP, and the time and memory that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from harness.bench.batches import USUAL_CLASSES, USUAL_IMAGES
from harness.bench.measurements import Line, number_of
from harness.comparison.board import METRIC, Board
from harness.comparison.intervals import Interval
from harness.drawing.charts import INK, RULE, SOFT, Canvas, colour
from harness.drawing.svg import Scale, length, number

BOXES = 100  # in each image: where assigners begin to differ in cost
WIDTH, HEIGHT = 420.0, 430.0  # px of a panel's plot
LEFT, TOP, FOOT = 58.0, 86.0, 56.0  # px before the first panel, above and below all
LEAD, GAP, ROW = 22.0, 70.0, 17.0  # px to the names, from names to the next panel, a line of them


@dataclass(frozen=True)
class Benefit:
    """One assigner.

    Attributes:
        name: as ``--assigner`` takes it.
        ap: over seeds.
        ms, mib: for `USUAL_IMAGES` images of `BOXES` boxes each.
        trains: whether the cost is of forward and backward, for it has a network or losses of its own.
    """

    name: str
    ap: Interval
    ms: float
    mib: float
    trains: bool


def benefits(board: Board, lines: Iterable[Line]) -> list[Benefit]:
    """Assigners at their defaults of which both AP and cost are known, best first.

    Args:
        lines: measurements of one machine and image size.
    """
    usual = (str(USUAL_IMAGES), str(BOXES), str(USUAL_CLASSES))
    costs = {line["assigner"]: line for line in lines if (line["images"], line["boxes"], line["classes"]) == usual}
    found = []
    for entry in board.entries:
        line, ap = costs.get(entry.name), entry.interval(METRIC)
        ms, mib = (number_of(line, name) for name in ("ms", "mib")) if line is not None else (None, None)
        if line is not None and ap.mean is not None and ms and mib:
            found.append(Benefit(entry.name, ap, ms, mib, line["passes"] != "forward"))
    return found


def front(points: Sequence[Benefit], cost: Callable[[Benefit], float]) -> list[Benefit]:
    """Those that nothing cheaper reaches in mean AP, from the cheapest on."""
    best: list[Benefit] = []
    for point in sorted(points, key=lambda p: (cost(p), -_mean(p))):
        if not best or _mean(point) > _mean(best[-1]):
            best.append(point)
    return best


def draw(points: Sequence[Benefit], title: str, below: str) -> Canvas:
    """AP over time and over memory, each point named at the right in the order of AP.

    Args:
        points: at least one.
        title: what the APs are of.
        below: where the costs were measured.
    """
    names = max(length(_label(point)) for point in points)
    height = max(HEIGHT, ROW * len(points))
    right = LEFT + 2 * (WIDTH + LEAD + names) + GAP + 12
    canvas = Canvas(right, TOP + height + FOOT + 24, title)
    canvas.words(LEFT - 40, 26, title, size=15)
    legend = "whiskers: 95 % over seeds; dashed: what nothing cheaper reaches; *: forward and backward"
    canvas.words(LEFT - 40, 46, legend, ink=SOFT)
    words = f"for {USUAL_IMAGES} images of {BOXES} boxes each"
    axes: tuple[tuple[str, Callable[[Benefit], float]], ...] = (
        (f"time, ms, {words}", lambda p: p.ms), (f"peak memory, MiB, {words}", lambda p: p.mib),
    )  # fmt: skip
    for index, (axis, cost) in enumerate(axes):
        _panel(canvas, LEFT + index * (WIDTH + LEAD + names + GAP), height, points, axis, cost)
    canvas.words(LEFT - 40, TOP + height + FOOT + 12, below, ink=SOFT)
    return canvas


def _panel(
    canvas: Canvas, left: float, height: float, points: Sequence[Benefit], axis: str, cost: Callable[[Benefit], float]
) -> None:
    costs = [cost(point) for point in points]
    ends = [end for p in points for end in (p.ap.low, p.ap.high, p.ap.mean) if end is not None]
    across = Scale(min(costs) / 1.3, max(costs) * 1.3, left, left + WIDTH, log=True)
    up = Scale(min(ends) - 0.5, max(ends) + 0.5, TOP + height, TOP)
    canvas.frame(across, up, axis, METRIC)
    steps: list[tuple[float, float]] = []
    for point in front(points, cost):
        x, y = across(cost(point)), up(_mean(point))
        steps += [(x, steps[-1][1]), (x, y)] if steps else [(x, y)]
    canvas.line([*steps, (across.end, steps[-1][1])], INK, 1.2, (5, 3))
    named = sorted(points, key=_mean, reverse=True)
    for row, point in enumerate(named):
        x, y, ink = across(cost(point)), up(_mean(point)), colour(row)
        if point.ap.low is not None and point.ap.high is not None:
            canvas.line([(x, up(point.ap.low)), (x, up(point.ap.high))], ink, 1.2)
        place = TOP + 6 + row * ROW
        canvas.line([(x, y), (across.end + 4, place), (across.end + LEAD - 4, place)], RULE, 0.8)
        canvas.dot(x, y, 4, ink)
        canvas.words(across.end + LEAD, place + 4, _label(point), ink=ink)


def _mean(point: Benefit) -> float:
    assert point.ap.mean is not None
    return point.ap.mean


def _label(point: Benefit) -> str:
    return f"{point.name}{' *' if point.trains else ''}  {number(_mean(point), 1)}"
