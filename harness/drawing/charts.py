"""Charts by matplotlib, which the extra `plots` brings: one style, and the same bytes for the same numbers and version.

matplotlib is loaded when a chart is begun, so that all else does without it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from harness.core.errors import UserError
from harness.core.files import write_atomically
from harness.drawing.images import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Given = ParamSpec("Given")
Made = TypeVar("Made")

INK, SOFT, RULE = "#1b1d20", "#5a6169", "#d9dcdf"
SLATE = (77, 83, 89)
# Okabe and Ito's, as in the report; yellow does not show on white.
SERIES = tuple("#{:02x}{:02x}{:02x}".format(*ink) for ink in (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, SLATE))
LINES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))  # with their marks: from the eighth series on
LETTER = 0.08  # inches; generous width of a letter of a label

STYLE: Any = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9, "text.color": INK,
    "text.parse_math": False,  # names may hold a $
    "figure.facecolor": "white", "figure.titlesize": 12, "figure.dpi": 160,
    "axes.titlesize": 10, "axes.titlelocation": "left", "axes.labelcolor": SOFT, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.7,
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
    "xtick.color": SOFT, "ytick.color": SOFT, "xtick.major.size": 0, "ytick.major.size": 0,
    "xtick.major.pad": 5, "ytick.major.pad": 5,
    "lines.linewidth": 1.4, "lines.markersize": 3.5, "legend.frameon": False, "legend.handlelength": 3,
    "svg.fonttype": "none", "svg.hashsalt": "assigner-zoo",
}  # fmt: skip


def need_matplotlib(what: str, instead: str = "") -> None:
    """Say that `what` cannot be drawn before the work is done that it is to show, and what to do `instead`.

    Raises:
        UserError: where matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise UserError(f"{what} needs matplotlib, which is not installed; pip install 'assigner-zoo[plots]'{instead}")


def styled(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Run a function that draws in the style of all charts, whatever matplotlib's settings are; they stay so."""

    @wraps(function)
    def drawn(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        need_matplotlib("a chart")
        from matplotlib import style

        with style.context(["default", STYLE]):
            return function(*args, **kwargs)

    return drawn


def colour(series: int) -> str:
    """Colour of a series, by its number."""
    return SERIES[series % len(SERIES)]


def line(series: int) -> dict[str, Any]:
    """Colour, dashes and marks of a series' line; 28 are told apart."""
    dashes, mark = LINES[series // len(SERIES) % len(LINES)]
    return {"color": colour(series), "linestyle": dashes, "marker": mark}


def new_figure(width: float, height: float, title: str, notes: str = "") -> Figure:
    """An empty figure, in inches, whose parts make room for one another: a title above all, notes below all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # type: ignore[union-attr,call-arg]
    figure.suptitle(title, x=0.01, ha="left")
    if notes:
        figure.supxlabel(notes, x=0.01, ha="left", fontsize=8, color=SOFT)
    return figure


def log_scale(axes: Axes, which: Literal["x", "y"], values: Sequence[float], at: Sequence[float] = ()) -> None:
    """Make a scale logarithmic, with plain numbers at powers of ten, at round values or at those given."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

    decades = max(values) > 30 * min(values)
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(at) if at else LogLocator(subs=(1,) if decades else (1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def beside(axes: Axes, row: float, words: str, *, away: float = 8, ink: str = INK) -> None:
    """Write a label to the right of a plot, at a height of its y axis and some points away."""
    axes.annotate(
        words, (1, row), (away, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
        va="center_baseline", color=ink, annotation_clip=False,
    )  # fmt: skip


@styled
def encoded(figure: Figure, kind: Literal["svg", "png"]) -> bytes:
    """A figure as a file, without the date and the program that it is of."""
    figure.draw_without_rendering()  # the parts make room once, and lie alike in both kinds
    figure.set_layout_engine("none")
    buffer = io.BytesIO()
    unsaid = ("Date", "Creator") if kind == "svg" else ("Software",)
    figure.savefig(buffer, format=kind, metadata={"Title": figure.get_suptitle(), **dict.fromkeys(unsaid)})
    return buffer.getvalue()


def save(figure: Figure, place: Path) -> list[Path]:
    """Write ``place.svg`` and ``place.png``.

    Raises:
        UserError: if they cannot be written.
    """
    kinds: tuple[Literal["svg", "png"], ...] = ("svg", "png")
    files = {place.with_name(f"{place.name}.{kind}"): kind for kind in kinds}
    for path, kind in files.items():
        write_atomically(path, encoded(figure, kind))
    return [*files]
