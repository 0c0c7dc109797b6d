"""Plain charts, drawn once and written as SVG and as PNG: lines, dots and words in pixels from the top left corner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from markupsafe import Markup
from PIL import Image, ImageDraw

from harness.drawing.images import Colour, font
from harness.drawing.svg import MINUS, Scale, element, number

Anchor = Literal["start", "middle", "end"]

INK, SOFT, RULE, PAPER = (27, 29, 32), (90, 97, 105), (217, 220, 223), (255, 255, 255)
SERIES: tuple[Colour, ...] = (  # Okabe and Ito's, as in the report; yellow does not show on white
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (77, 83, 89),
)  # fmt: skip
DASHES: tuple[tuple[int, ...], ...] = ((), (7, 4), (2, 3))
OVER = 3  # a PNG is painted this much larger and reduced, which smooths it
TEXT = 12  # px


def colour(series: int) -> Colour:
    """Colour of a series, by its number."""
    return SERIES[series % len(SERIES)]


def dash(series: int) -> tuple[int, ...]:
    """Lengths of dashes and gaps of a series' line: from the eighth on colours come again, dashed."""
    return DASHES[series // len(SERIES) % len(DASHES)]


@dataclass(frozen=True)
class Line:
    """A path through points."""

    points: tuple[tuple[float, float], ...]
    colour: Colour
    width: float
    dashes: tuple[int, ...] = ()

    def svg(self) -> Markup:
        """The shape as an SVG element."""
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in self.points)
        dashes = " ".join(map(str, self.dashes)) or None
        return element(
            "path", d=path, fill="none", stroke=_hex(self.colour), stroke_width=self.width, stroke_dasharray=dashes,
            stroke_linejoin="round",
        )  # fmt: skip

    def paint(self, draw: ImageDraw.ImageDraw) -> None:
        """Onto a picture of `OVER` times the size."""
        for part in _dashed(self.points, self.dashes):
            if len(part) > 1:
                scaled = [(OVER * x, OVER * y) for x, y in part]
                draw.line(scaled, fill=self.colour, width=round(OVER * self.width), joint="curve")


@dataclass(frozen=True)
class Dot:
    """A filled disc."""

    x: float
    y: float
    radius: float
    colour: Colour
    opacity: float = 1.0

    def svg(self) -> Markup:
        """The shape as an SVG element."""
        fill = _hex(self.colour)
        return element("circle", cx=self.x, cy=self.y, r=self.radius, fill=fill, fill_opacity=self.opacity)

    def paint(self, draw: ImageDraw.ImageDraw) -> None:
        """Onto a picture of `OVER` times the size."""
        x, y, r = OVER * self.x, OVER * self.y, OVER * self.radius
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(*self.colour, round(255 * self.opacity)))


@dataclass(frozen=True)
class Words:
    """A line of text with its baseline at `y`."""

    x: float
    y: float
    words: str
    anchor: Anchor = "start"
    size: float = TEXT
    colour: Colour = INK

    def svg(self) -> Markup:
        """The shape as an SVG element."""
        return element(
            "text", self.words, x=self.x, y=self.y, fill=_hex(self.colour), font_size=self.size,
            text_anchor=self.anchor, font_family="Helvetica, Arial, sans-serif",
        )  # fmt: skip

    def paint(self, draw: ImageDraw.ImageDraw) -> None:
        """Onto a picture of `OVER` times the size."""
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[self.anchor]
        place = OVER * self.x, OVER * self.y
        words = self.words.replace(MINUS, "-")  # which Pillow's font lacks
        draw.text(place, words, fill=self.colour, font=font(round(OVER * self.size)), anchor=anchor)


@dataclass
class Canvas:
    """A picture in the making.

    Attributes:
        width, height: px.
        title: for those who cannot see it.
        shapes: from the lowest to the topmost.
    """

    width: float
    height: float
    title: str
    shapes: list[Line | Dot | Words] = field(default_factory=list)

    def line(
        self, points: Sequence[tuple[float, float]], ink: Colour, width: float, dashes: tuple[int, ...] = ()
    ) -> None:
        """Draw a path through points."""
        self.shapes.append(Line(tuple(points), ink, width, dashes))

    def dot(self, x: float, y: float, radius: float, ink: Colour, opacity: float = 1.0) -> None:
        """Draw a filled disc."""
        self.shapes.append(Dot(x, y, radius, ink, opacity))

    def words(
        self, x: float, y: float, words: str, anchor: Anchor = "start", size: float = TEXT, ink: Colour = INK
    ) -> None:
        """Write a line of text."""
        self.shapes.append(Words(x, y, words, anchor, size, ink))

    def frame(self, across: Scale, up: Scale, x_words: str, y_words: str) -> None:
        """Add grid lines with their numbers between the ends of two scales, and what the axes are."""
        for tick in up.ticks(5):
            self.line([(across.start, up(tick)), (across.end, up(tick))], RULE, 0.8)
            self.words(across.start - 6, up(tick) + 4, number(tick), "end", 11, SOFT)
        for tick in across.ticks(5):
            self.line([(across(tick), up.start), (across(tick), up.end)], RULE, 0.8)
            self.words(across(tick), max(up.start, up.end) + 16, number(tick), "middle", 11, SOFT)
        self.words((across.start + across.end) / 2, max(up.start, up.end) + 34, x_words, "middle", TEXT, SOFT)
        self.words(across.start - 6, min(up.start, up.end) - 8, y_words, "start", TEXT, SOFT)

    def svg(self) -> str:
        """The picture as an SVG file."""
        ground = element("rect", width=self.width, height=self.height, fill=_hex(PAPER))
        size = {"width": self.width, "height": self.height, "viewBox": f"0 0 {self.width:g} {self.height:g}"}
        shapes = [shape.svg() for shape in self.shapes]
        title = element("title", self.title)
        return str(element("svg", title, ground, *shapes, xmlns="http://www.w3.org/2000/svg", **size)) + "\n"

    def png(self) -> Image.Image:
        """The picture at twice its size in pixels, for screens and print."""
        image = Image.new("RGB", (round(OVER * self.width), round(OVER * self.height)), PAPER)
        draw = ImageDraw.Draw(image, "RGBA")  # discs that are not opaque are blended
        for shape in self.shapes:
            shape.paint(draw)
        return image.resize((round(2 * self.width), round(2 * self.height)), Image.Resampling.LANCZOS)


def _hex(ink: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*ink)


def _dashed(points: Sequence[tuple[float, float]], dashes: Sequence[int]) -> list[list[tuple[float, float]]]:
    """The parts of a path that are drawn."""
    if not dashes:
        return [list(points)]
    parts: list[list[tuple[float, float]]] = [[points[0]]]
    left, position = float(dashes[0]), 0
    for start, end in pairwise(points):
        done, length = 0.0, ((end[0] - start[0]) ** 2 + (end[1] - start[1]) ** 2) ** 0.5
        while length - done > left:
            done += left
            place = tuple(a + (b - a) * done / length for a, b in zip(start, end, strict=True))
            if position % 2 == 0:
                parts[-1].append((place[0], place[1]))
            else:
                parts.append([(place[0], place[1])])
            position += 1
            left = float(dashes[position % len(dashes)])
        left -= length - done
        if position % 2 == 0:
            parts[-1].append(end)
    return parts
