"""The picture of an insight: who agrees with whom, a heat map for all boxes and one for each size among them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from harness.analysis.agreement import Insight
from harness.drawing.images import BLACK, GAP, GREY, TEXT, WHITE, Colour, Pen, font, heat_colour

CELL = 54  # px of the finished picture
OVER = 2  # everything is painted so much larger and reduced at the end, which smooths it

Matrix = Sequence[Sequence[float | None]]


def draw(insight: Insight, title: str) -> Image.Image:
    """Heat maps of the Jaccard index by bilinear mass, side by side; a size without boxes is left out."""
    names = [str(row["name"]) for row in insight.assigners]
    maps = [(size, part) for size, part in insight.agreement.items() if part["boxes"]]
    widest = max(_width(name) for name in names)
    side, left, top = CELL * len(names), GAP + widest + GAP, 3 * TEXT + widest + 2 * GAP
    note = "Jaccard index of the positives' bilinear mass, scaled to 1 per box"
    width = max(left + (side + 2 * GAP) * len(maps), 2 * GAP + round(1.3 * _width(title)), 12 * GAP + _width(note))
    made = Image.new("RGB", (OVER * width, OVER * (top + side + 3 * TEXT + GAP)), BLACK)
    pen = Pen(made, OVER)
    _words(pen, GAP, GAP, title, WHITE, TEXT + 3)
    for row, name in enumerate(names):
        _words(pen, left - GAP / 2 - _width(name), top + CELL * (row + 0.5) - TEXT / 2, name, WHITE)
    for number, (size, part) in enumerate(maps):
        x = left + number * (side + 2 * GAP)
        for column, name in enumerate(names):
            _upwards(made, x + CELL * (column + 0.5), top - GAP / 2, name)
        _heat_map(pen, x, top, part["mass"])
        count = f"{size if size != 'all' else 'all sizes'}, {part['boxes']} box{'es' if part['boxes'] != 1 else ''}"
        _words(pen, x, top + side + 4, count, GREY)
    below = top + side + 2 * TEXT + GAP / 2
    pen.bar(OVER * (4 * GAP), OVER * (below + TEXT / 2), OVER * 2.2 * GAP)
    _words(pen, GAP, below, "0", WHITE)
    _words(pen, 6.6 * GAP, below, "1", WHITE)
    _words(pen, 8 * GAP, below, note, WHITE)
    return made.reduce(OVER)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is read better on a colour of heat."""
    return BLACK if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 128 else WHITE  # luma, ITU-R BT.601


def _heat_map(pen: Pen, left: float, top: float, matrix: Matrix) -> None:
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            x, y = left + CELL * column, top + CELL * row
            area = tuple(OVER * edge for edge in (x + 1, y + 1, x + CELL - 1, y + CELL - 1))
            colour = GREY if value is None else heat_colour(value)
            pen.draw.rectangle(area, fill=colour)
            words = "-" if value is None else f"{value:.2f}"
            _words(pen, x + (CELL - _width(words)) / 2, y + (CELL - TEXT) / 2 + 1, words, ink_on(colour))


def _words(pen: Pen, x: float, y: float, words: str, colour: Colour, size: float = TEXT) -> None:
    pen.text(OVER * x, OVER * y, words, OVER * size, colour)


def _upwards(made: Image.Image, x: float, bottom: float, words: str) -> None:
    """Words that read from below to above, with their middle line at `x` and their start at `bottom`."""
    length, height = OVER * (_width(words) + 2), OVER * (TEXT + 4)
    strip = Image.new("RGB", (length, height), BLACK)
    ImageDraw.Draw(strip).text((0, height / 2), words, fill=WHITE, font=font(OVER * TEXT), anchor="lm")
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    made.paste(turned, (round(OVER * x - height / 2), round(OVER * bottom - length)))


def _width(words: str) -> int:
    return round(font(OVER * TEXT).getlength(words) / OVER)
