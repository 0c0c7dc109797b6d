"""SVG in small pieces: elements whose text and attributes are escaped, scales with round ticks, marks of a series.

The report draws its own SVG, and other charts are matplotlib's (`harness.drawing.charts`): its page is offline, has the
same bytes everywhere and follows its reader from light to dark.

Colours are CSS classes (``s0`` to ``s6``, one per colour of the palette), so that a chart follows the page from light
to dark. Marks differ in shape as well as in colour: 28 series can be told apart, also in print without colour.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass

from markupsafe import Markup, escape

COLOURS = 7  # of the palette; classes s0 ... s6
SHAPES = 4
_DASHES = (None, "6 3", "2 2.5", "8 2.5 2 2.5")
DASH, MINUS, TIMES = "\u2013", "\u2212", "\u00d7"
LETTER = 6.3  # px; generous width of a letter at the charts' text size, so that measured labels never overlap


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """One element. ``class_`` is written ``class``, ``stroke_width`` ``stroke-width``; None leaves an attribute out."""
    words = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{words}>{Markup('').join(children)}</{tag}>")


def text(x: float, y: float, words: str, class_: str | None = None, anchor: str | None = None) -> Markup:
    """Words with their baseline at ``y``."""
    return element("text", words, x=x, y=y, class_=class_, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def picture(width: float, height: float, words: str, *children: str, class_: str = "chart") -> Markup:
    """A whole drawing, with a name for those who cannot see it."""
    size = {"viewBox": f"0 0 {_plain(width)} {_plain(height)}", "width": width, "height": height}
    return element("svg", *children, **size, class_=class_, role="img", aria_label=words)


def mark(series: int, x: float, y: float, radius: float = 4.0, *, hollow: bool = False) -> Markup:
    """The mark of a series: disc, square, triangle or diamond in one of the colours."""
    class_ = f"mark s{series % COLOURS}{' hollow' if hollow else ''}"
    shape = series % SHAPES
    if shape == 0:
        return element("circle", cx=x, cy=y, r=radius, class_=class_)
    r = radius * (0.9, 1.25, 1.25)[shape - 1]
    corners = (
        ((-r, -r), (r, -r), (r, r), (-r, r)),
        ((0, -r), (r, 0.8 * r), (-r, 0.8 * r)),
        ((0, -r), (r, 0), (0, r), (-r, 0)),
    )[shape - 1]
    points = " ".join(f"{_plain(x + dx)},{_plain(y + dy)}" for dx, dy in corners)
    return element("polygon", points=points, class_=class_)


def dash(series: int) -> str | None:
    """The dash pattern of a series' line."""
    return _DASHES[series % SHAPES]


def key(series: int) -> Markup:
    """The mark alone, to stand before a name in running text."""
    size = {"viewBox": "0 0 12 12", "width": 12, "height": 12}
    return element("svg", mark(series, 6, 6), **size, class_="key", aria_hidden="true")


def shortened(words: str, letters: int) -> str:
    """A name with its middle left out where it is longer than `letters`; names differ at both ends."""
    if len(words) <= letters:
        return words
    return f"{words[: letters // 2]}\u2026{words[-(letters - letters // 2 - 1) :]}"


def length(words: str) -> float:
    """An upper estimate of how wide words are, in px."""
    return LETTER * len(words)


@dataclass(frozen=True)
class Scale:
    """From values to pixels, linear or logarithmic.

    Attributes:
        low, high: the range of values; `low` < `high`, and `low` > 0 where logarithmic.
        start, end: the pixels of both.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies; values outside the range lie outside the pixels."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def clipped(self, value: float) -> float:
        """Where a value lies, or the nearest end."""
        return self(min(max(value, self.low), self.high))

    def ticks(self, wanted: int = 5) -> list[float]:
        """About as many round values within the range as wanted."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            rounds = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
            within = [value for value in rounds if self.low <= value <= self.high]
            if len(within) > 1:
                return within
        rough = (self.high - self.low) / wanted
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * min((1, 2, 5, 10), key=lambda digit: abs(math.log(digit * power / rough)))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [count * step for count in range(first, last + 1)]


def number(value: float, digits: int | None = None) -> str:
    """A number as print has it, with a true minus; without `digits`, as short as it is exact to 6 places."""
    words = f"{value:.6g}" if digits is None else f"{value:.{digits}f}"
    if not words.strip("-0."):
        words = words.lstrip("-")  # no minus before nought
    return words.replace("-", MINUS)


def png_uri(content: bytes) -> str:
    """A PNG file as an address, for a page or a drawing that holds all it needs."""
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign; nought has none."""
    words = number(value, digits)
    return words if words.startswith(MINUS) or not words.strip("0.") else f"+{words}"


def _plain(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
