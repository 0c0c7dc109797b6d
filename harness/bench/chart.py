"""The picture of measurements: time and memory over boxes, images and classes, and the ratio to dense code."""

from __future__ import annotations

from collections.abc import Sequence

from harness.bench.batches import CROWD, USUAL_BOXES, USUAL_CLASSES, USUAL_IMAGES
from harness.bench.measurements import Line, number_of
from harness.drawing.charts import DASHES, INK, SERIES, SOFT, Canvas, colour, dash
from harness.drawing.svg import Scale

WIDTH, HEIGHT = 300, 230  # px of a panel's plot
LEFT, TOP, ACROSS, DOWN = 58, 70, 70, 80  # px before the first and between panels
USUAL = {"boxes": USUAL_BOXES, "images": USUAL_IMAGES, "classes": USUAL_CLASSES}
MEASURES = {"ms": "ms per image", "mib": "MiB per image", "ratio": "times faster than dense code"}
PANELS = (
    ("ms", "boxes"), ("ms", "images"), ("ms", "classes"), ("mib", "boxes"), ("mib", "images"), ("mib", "classes"),
    ("ratio", "boxes"),
)  # fmt: skip
NAMES_IN_A_COLUMN = 13

Points = list[tuple[float, float]]


def draw(lines: Sequence[Line], title: str) -> Canvas:
    """All panels that have something to show; `lines` are of one machine."""
    names = list(dict.fromkeys(line["assigner"] for line in lines))
    canvas = Canvas(LEFT + 3 * (WIDTH + ACROSS), TOP + 3 * (HEIGHT + DOWN), title)
    canvas.words(LEFT - 40, 26, title, size=15)
    for index, (measure, axis) in enumerate(PANELS):
        corner = LEFT + index % 3 * (WIDTH + ACROSS), TOP + index // 3 * (HEIGHT + DOWN)
        _panel(canvas, corner, {name: series(lines, name, measure, axis) for name in names}, measure, axis)
    left, top = LEFT + WIDTH + ACROSS, TOP + 2 * (HEIGHT + DOWN)
    for index, name in enumerate(names):
        x, y = left + index // NAMES_IN_A_COLUMN * 220, top + index % NAMES_IN_A_COLUMN * 18
        canvas.line([(x, y), (x + 30, y)], colour(index), _width(index), dash(index))
        canvas.words(x + 38, y + 4, name)
    return canvas


def series(lines: Sequence[Line], name: str, measure: str, axis: str) -> Points:
    """An assigner's points along an axis, the others at their usual values; per image where that is what counts."""
    found = []
    for line in lines:
        usual = USUAL | ({"images": 1} if int(line["boxes"]) >= CROWD else {})  # a crowd comes in one image
        value = number_of(line, measure)
        if line["assigner"] != name or value is None or any(int(line[o]) != usual[o] for o in usual if o != axis):
            continue
        found.append((float(line[axis]), value if measure == "ratio" else value / float(line["images"])))
    return sorted(found)


def _panel(canvas: Canvas, corner: tuple[float, float], curves: dict[str, Points], measure: str, axis: str) -> None:
    """One plot with logarithmic scales."""
    known = [point for points in curves.values() for point in points if point[1] > 0]
    if not known:
        return
    left, top = corner
    xs, ys = zip(*known, strict=True)
    across = _scale(min(xs), max(xs), left, left + WIDTH)
    up = _scale(min(ys), max(ys), top + HEIGHT, top)
    for scale, sideways in ((up, True), (across, False)):
        _rules(canvas, scale, across if sideways else up, sideways, sorted(set(xs)) if not sideways else None)
    words = "boxes an image" if axis == "boxes" else axis
    canvas.words(left + WIDTH / 2, top + HEIGHT + 36, words, "middle", ink=SOFT)
    canvas.words(left, top - 10, MEASURES[measure], ink=INK)
    for index, points in enumerate(curves.values()):
        places = [(across(x), up(y)) for x, y in points if y > 0]
        if len(places) > 1:
            canvas.line(places, colour(index), _width(index), dash(index))
        for x, y in places:
            canvas.dot(x, y, 2.4, colour(index))


def _width(index: int) -> float:
    """Of a line: where colours and dashes have all been used, it grows."""
    return 1.6 + 1.6 * (index // (len(SERIES) * len(DASHES)))


def _scale(low: float, high: float, start: float, end: float) -> Scale:
    return Scale(low / 1.15, high * 1.15, start, end, log=True)


def _rules(canvas: Canvas, scale: Scale, other: Scale, sideways: bool, values: list[float] | None) -> None:
    """Grid lines with their numbers: at powers of ten, or at the values measured."""
    powers = [tick for tick in scale.ticks() if f"{tick:e}".startswith("1.0")]
    ticks = values or (powers if len(powers) > 1 else scale.ticks())
    for tick in ticks:
        place = scale(tick)
        if sideways:
            canvas.line([(other.start, place), (other.end, place)], (217, 220, 223), 0.8)
            canvas.words(other.start - 6, place + 4, f"{tick:g}", "end", 11, SOFT)
        else:
            canvas.line([(place, other.start), (place, other.end)], (217, 220, 223), 0.8)
            canvas.words(place, other.start + 16, f"{tick:g}", "middle", 11, SOFT)
