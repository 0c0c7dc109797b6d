"""One renderer for detections and for assignments: boxes, samples, mixtures and heat over an image, with a legend.

Coordinates are pixels of the image that is drawn on. Everything is painted at twice the final size and halved at the
end, which smooths lines, discs and letters alike. Colours are Okabe and Ito's, told apart by colour-blind readers
("Color Universal Design", 2008).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from harness.core.files import write_atomically

Colour = tuple[int, int, int]
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Corners = Sequence[float]  # x1, y1, x2, y2
Area = tuple[float, float, float, float]  # likewise, px of what is painted on

ORANGE, SKY, GREEN, YELLOW = (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)
BLUE, VERMILION, PURPLE = (0, 114, 178), (213, 94, 0), (204, 121, 167)
WHITE, GREY, BLACK = (250, 250, 250), (168, 168, 168), (16, 16, 18)
BOX_COLOURS: tuple[Colour, ...] = (SKY, ORANGE, YELLOW, PURPLE, GREEN, VERMILION, BLUE)
LEVEL_COLOURS: tuple[Colour, ...] = (ORANGE, SKY, PURPLE, YELLOW, GREEN)  # P3 and on; beyond, again from the start
HEAT: tuple[Colour, ...] = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))  # viridis

SIDE = 1000  # px that a small image is enlarged towards
SMOOTHED = 2400  # px of a longer side, above which a picture is painted at its final size: memory before beauty
TEXT = 15  # px
GAP = 14  # px between panels and around a sheet


def enlargement(height: int, width: int, side: int = SIDE) -> int:
    """The whole factor that brings the longer edge nearest below `side`, at least 1: images are never made smaller."""
    return max(1, side // max(height, width))


def colour_of(index: int) -> Colour:
    """Colour of a class."""
    return BOX_COLOURS[index % len(BOX_COLOURS)]


def level_colour(level: int) -> Colour:
    """Colour of a pyramid level, 0 the finest."""
    return LEVEL_COLOURS[level % len(LEVEL_COLOURS)]


def heat_colour(share: float) -> Colour:
    """Colour of a value in [0, 1]."""
    place = share * (len(HEAT) - 1)
    low = min(int(place), len(HEAT) - 2)
    return _mix(HEAT[low], HEAT[low + 1], place - low)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is read better on a colour."""
    return BLACK if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 128 else WHITE  # luma, ITU-R BT.601


class Pen:
    """The symbols, at places of what is painted on, or of a picture that lies enlarged under it.

    Args:
        image: to paint on.
        unit: width of a thin line in its pixels.
        origin, scale: the place of the picture in the image's upper left corner, and how far it is enlarged.
    """

    def __init__(
        self, image: Image.Image, unit: float, origin: tuple[float, float] = (0.0, 0.0), scale: float = 1.0
    ) -> None:
        self.draw, self.unit, self._origin, self._scale = ImageDraw.Draw(image), unit, origin, scale

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of the image, of a place."""
        return (x - self._origin[0]) * self._scale, (y - self._origin[1]) * self._scale

    def area(self, corners: Corners) -> Area:
        """Pixels of the image, of a box."""
        return *self.at(corners[0], corners[1]), *self.at(corners[2], corners[3])

    def radius(self, level: int) -> float:
        """Of a marker: a coarser level has a larger one."""
        return self.unit * (4.2 + 1.4 * min(level, 6))

    def dot(self, x: float, y: float, level: int, label: float, *, foreign: bool = False) -> None:
        """A sample: ring in the level's colour, filled from black (label 0) to it (label 1); grey if foreign."""
        x, y = self.at(x, y)
        share, colour = min(max(label, 0.0), 1.0), GREY if foreign else level_colour(level)
        self._disc(x, y, self.radius(level) + self.unit, BLACK)
        self._disc(x, y, self.radius(level), colour)
        self._disc(x, y, self.radius(level) - 1.5 * self.unit, _mix(BLACK, colour, share))

    def cross(self, x: float, y: float, level: int) -> None:
        """A sample that is no positive."""
        x, y = self.at(x, y)
        reach = 0.8 * self.radius(level)
        for width, colour in ((3.2, BLACK), (1.6, level_colour(level))):
            for sign in (1, -1):
                ends = (x - reach, y - sign * reach, x + reach, y + sign * reach)
                self.draw.line(ends, fill=colour, width=round(width * self.unit))

    def ring(self, x: float, y: float, level: int) -> None:
        """A place that a box would have alone in the image and has not."""
        x, y = self.at(x, y)
        reach = self.radius(level) + 3 * self.unit
        for start in range(0, 360, 60):
            area = (x - reach, y - reach, x + reach, y + reach)
            self.draw.arc(area, start, start + 36, fill=WHITE, width=round(1.6 * self.unit))

    def bar(self, x: float, y: float, reach: float) -> None:
        """The colours of heat, from 0 to 1."""
        steps = 24
        for step in range(steps):
            left = x - reach + 2 * reach * step / steps
            area = (left, y - 0.4 * reach, left + 2 * reach / steps, y + 0.4 * reach)
            self.draw.rectangle(area, fill=heat_colour(step / (steps - 1)))

    def spot(self, x: float, y: float) -> None:
        """A location of the grid."""
        x, y = self.at(x, y)
        self._disc(x, y, 2.6 * self.unit, BLACK)
        self._disc(x, y, 1.6 * self.unit, WHITE)

    def rectangle(self, corners: Corners, colour: Colour, width: float) -> None:
        """An outline with a dark edge, so that it shows on any ground."""
        x1, y1, x2, y2 = self.area(corners)
        self._outline(self.draw.rectangle, (x1, y1, max(x2, x1), max(y2, y1)), colour, width, 2.0)

    def hatch(self, corners: Corners) -> None:
        """A region without negatives, such as a crowd."""
        x1, y1, x2, y2 = self.area(corners)
        pitch = 9 * self.unit
        for step in range(1, int((x2 - x1 + y2 - y1) / pitch) + 1):
            along = step * pitch
            start = (x1 + min(along, x2 - x1), y1 + max(along - (x2 - x1), 0))
            end = (x1 + max(along - (y2 - y1), 0), y1 + min(along, y2 - y1))
            self.draw.line((*start, *end), fill=GREY, width=round(self.unit))
        self.rectangle(corners, GREY, 1.0)

    def ellipse(self, x: float, y: float, radii: tuple[float, float], level: int, width: float) -> None:
        """An outline around a component of a mixture."""
        x, y = self.at(x, y)
        across, down = (radius * self._scale for radius in radii)
        self._outline(self.draw.ellipse, (x - across, y - down, x + across, y + down), level_colour(level), width, 1.6)

    def text(self, x: float, y: float, words: str, size: float, colour: Colour) -> None:
        """Words with their top left corner at a pixel of the image."""
        self.draw.text((x, y), words, fill=colour, font=font(round(size)), anchor="lt")

    def _outline(self, shape: Callable[..., None], area: Area, colour: Colour, width: float, edge: float) -> None:
        for extra, ink in ((edge, BLACK), (0.0, colour)):
            half = (width + extra) * self.unit / 2
            outer = (area[0] - half, area[1] - half, area[2] + half, area[3] + half)
            shape(outer, outline=ink, width=max(1, round(2 * half)))

    def _disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


@dataclass(frozen=True)
class _Plate:
    """Words and where they are to go: first the box that they belong to, then their own place."""

    area: Area
    words: str
    colour: Colour


class Panel(Pen):
    """One picture: an image, or a window of it, enlarged and drawn over.

    Args:
        image: ``[H, W, 3]`` RGB.
        title: written above it on a sheet.
        side: what the longer edge is enlarged towards, in pixels.
        window: x1, y1, x2, y2 of the part to show, whole pixels within the image; all of it where absent.
    """

    def __init__(
        self, image: Pixels, *, title: str = "", side: int = SIDE, window: tuple[int, int, int, int] | None = None
    ) -> None:
        self.window = window or (0, 0, image.shape[1], image.shape[0])
        x1, y1, x2, y2 = self.window
        self.factor = enlargement(y2 - y1, x2 - x1, side)
        self.title = _on_one_line(title)
        self._over = 2 if self.factor * max(y2 - y1, x2 - x1) <= SMOOTHED else 1
        scale = self.factor * self._over
        size = (scale * (x2 - x1), scale * (y2 - y1))
        self._image = Image.fromarray(image[y1:y2, x1:x2]).resize(size, Image.Resampling.NEAREST)
        line = max(1.0, max(size) / self._over / SIDE)  # px of the final picture
        super().__init__(self._image, self._over * line, (x1, y1), scale)
        self._words: list[_Plate] = []

    def heat(self, values: Floats) -> None:
        """Lay a map ``[H, W]`` in [0, 1] of the whole image over it; to be called before anything else is drawn."""
        x1, y1, x2, y2 = self.window
        small = Image.fromarray(values[y1:y2, x1:x2].astype(np.float32))
        share = np.asarray(small.resize(self._image.size, Image.Resampling.BILINEAR)).clip(0, 1)[..., None]
        stops = np.linspace(0, 1, len(HEAT))
        tint = np.stack([np.interp(share[..., 0], stops, [stop[c] for stop in HEAT]) for c in range(3)], axis=-1)
        grey = np.asarray(self._image.convert("L"))[..., None] * 0.7  # colour then means nothing but the map
        cover = 0.2 + 0.6 * share
        mixed = grey * (1 - cover) + tint * cover
        self._image.paste(Image.fromarray(mixed.round().astype(np.uint8)))

    def box(self, corners: Corners, words: str, colour: Colour, *, width: float = 2.0) -> None:
        """A box with words on a plate. Plates come on top of everything; the last box has the first choice of place."""
        self.rectangle(corners, colour, width)
        if words:
            self._words.append(_Plate(self.area(corners), _on_one_line(words), colour))

    def component(self, centre: tuple[float, float], sigma: tuple[float, float], level: int, share: float) -> None:
        """A component of a mixture at one and, thinner, two standard deviations; thin where its `share` in 0..1 is."""
        for times, width in ((1, 0.6 + 1.8 * share), (2, 0.4 + 0.9 * share)):
            self.ellipse(*centre, (times * sigma[0], times * sigma[1]), level, width)

    def finished(self) -> Image.Image:
        """The picture at its final size."""
        size = TEXT * self.unit
        plates: list[_Plate] = []
        for wanted in reversed(self._words):
            plates.append(self._placed(wanted, plates))
        for plate in reversed(plates):
            self.draw.rectangle(plate.area, fill=plate.colour)
            place = plate.area[0] + 0.3 * size, plate.area[1] + 0.2 * size
            self.text(*place, plate.words, size, ink_on(plate.colour))
        return self._image.reduce(self._over) if self._over > 1 else self._image

    def _placed(self, wanted: _Plate, taken: Sequence[_Plate]) -> _Plate:
        """Above the box, else inside, below or beside it: the first place in the picture that no plate has taken."""
        size = TEXT * self.unit
        width, height = font(round(size)).getlength(wanted.words) + 0.6 * size, 1.25 * size
        edge = 1.5 * self.unit
        x1, y1, x2, y2 = wanted.area
        places = [(x1 - edge, y1 - height - edge), (x2 - width + edge, y1 - height - edge), (x1, y1), (x1, y2 + edge),
                  (x2 + edge, y1), (x2 - width, y1), (x1, y2 - height), (x2 - width, y2 - height)]  # fmt: skip
        spare: Area | None = None
        for left, top in places:
            left = min(max(left, 0.0), max(self._image.width - width, 0.0))
            area = (left, top, left + width, top + height)
            inside = top >= 0 and area[3] <= self._image.height
            if inside and not any(_overlap(area, other.area) for other in taken):
                return replace(wanted, area=area)
            spare = spare or (area if inside else None)
        top = min(max(y1, 0.0), max(self._image.height - height, 0.0))
        return replace(wanted, area=spare or (max(x1, 0.0), top, max(x1, 0.0) + width, top + height))


@dataclass(frozen=True)
class LegendEntry:
    """One entry of a legend: what draws the symbol around a point, and what it means."""

    symbol: Callable[[Pen, float, float], None]
    words: str


def sheet(rows: Sequence[Sequence[Panel]], title: str, legend: Sequence[LegendEntry]) -> Image.Image:
    """Panels in rows on a dark ground, a title above and the legend below."""
    title = _on_one_line(title)
    pictures = [[(panel.title, panel.finished()) for panel in row] for row in rows if row]
    head = 2 * TEXT
    needed = [sum(p.width + GAP for _, p in row) + GAP for row in pictures]
    width = max(480, round(font(TEXT + 3).getlength(title)) + 2 * GAP, *needed)
    lines = _wrapped(legend, width)
    heights = [max(p.height for _, p in row) + (head if any(t for t, _ in row) else 0) + GAP for row in pictures]
    canvas = Image.new("RGB", (width, head + GAP + sum(heights) + len(lines) * head + GAP // 2), BLACK)
    pen = Pen(canvas, 1.0)
    pen.text(GAP, GAP, title, TEXT + 3, WHITE)
    top = head + GAP
    for row, height in zip(pictures, heights, strict=True):
        left, titled = GAP, any(words for words, _ in row)
        for words, picture in row:
            pen.text(left, top + 4, words, TEXT, GREY)
            canvas.paste(picture, (left, top + (head if titled else 0)))
            left += picture.width + GAP
        top += height
    strip = Image.new("RGB", (2 * width, 2 * head * max(len(lines), 1)), BLACK)
    large = Pen(strip, 2.0)
    for number, line in enumerate(lines):
        y = head * (2 * number + 1)
        for start, entry in line:
            entry.symbol(large, 2 * start + 4 * GAP, y)
            large.text(2 * start + 6.2 * GAP, y - TEXT + 3, entry.words, 2 * TEXT - 2, WHITE)
    if lines:
        canvas.paste(strip.reduce(2), (0, top))
    return canvas


def _wrapped(legend: Sequence[LegendEntry], width: int) -> list[list[tuple[float, LegendEntry]]]:
    """The legend's lines: (left edge in pixels, entry)."""
    lines: list[list[tuple[float, LegendEntry]]] = []
    left = float(width)
    for entry in legend:
        needed = font(2 * TEXT - 2).getlength(entry.words) / 2 + 3.8 * GAP
        if left + needed + GAP > width:
            lines.append([])
            left = 0.0
        lines[-1].append((left, entry))
        left += needed
    return lines


def save_png(path: Path, image: Image.Image) -> None:
    """Write a PNG that is there whole or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    write_atomically(path, png(image))


def png(image: Image.Image, *, optimize: bool = False) -> bytes:
    """A picture as the content of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=optimize)
    return buffer.getvalue()


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, so that pictures look the same everywhere."""
    default = ImageFont.load_default(size)
    assert isinstance(default, ImageFont.FreeTypeFont)
    return default


def _on_one_line(words: str) -> str:
    """Names of files and classes may hold line ends, of which a font knows no length."""
    return " ".join(words.split())


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _overlap(a: Area, b: Area) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
