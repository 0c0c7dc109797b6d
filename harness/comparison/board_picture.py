"""A board as a picture: AP of every seed and its mean, and what is between each assigner and one of them, by pairs."""

from __future__ import annotations

from collections.abc import Sequence

from harness.comparison.board import METRIC, Board, Entry
from harness.comparison.intervals import Gap
from harness.comparison.noise import noise
from harness.core.files import slug
from harness.drawing.charts import INK, RULE, SOFT, Canvas, colour
from harness.drawing.svg import MINUS, Scale, length, number

REFERENCE = "center"  # that the gaps are to, where it is on the board; else the best
WIDTH, ROW = 330.0, 24.0  # px of a plot, of a line
TOP, FOOT, EDGE, GAP = 112.0, 52.0, 20.0, 14.0  # px above and below the lines, at the sides, between columns
NUMBERS = length("+00.0 ± 00.0")


def draw(board: Board) -> Canvas:
    """Best mean first, as in the tables; entries without an AP are left out, and there must be others."""
    entries = [(entry, group) for entry, group in zip(board.entries, board.letters, strict=True) if group]
    reference = next((entry for entry, _ in entries if entry.name == REFERENCE), entries[0][0])
    gaps = {entry.name: _gap(board, entry, reference) for entry, _ in entries if entry is not reference}
    left = EDGE + max(length(entry.name) for entry, _ in entries) + GAP
    right = left + WIDTH + GAP + length("00.0") + 3 * GAP
    bottom = TOP + ROW * len(entries)
    after = right + WIDTH + GAP + NUMBERS + GAP
    title = f"{METRIC} on {board.question.data} under {board.question.protocol}"
    canvas = Canvas(after + max(length(group) for _, group in entries) + EDGE, bottom + FOOT, title)
    canvas.words(EDGE, 26, title, size=15)
    legend = "dots: seeds; bars: 95 %; letters: who shares one is not told apart"
    floor = noise(board)
    for line, words in enumerate((legend, *(str(floor).replace("`", "").split("; ") if floor is not None else ()))):
        canvas.words(EDGE, 46 + 15 * line, words, size=11, ink=SOFT)
    values = [value for entry, _ in entries for value in entry.values(METRIC).values()]
    apart = [end for gap in gaps.values() if gap for end in (gap.low, gap.high, gap.mean) if end is not None]
    first = _axis(canvas, values, left, bottom, METRIC)
    second = _axis(canvas, [0.0, *apart], right, bottom, f"{METRIC} minus that of {reference.name}, seed by seed")
    canvas.line([(second(0), TOP - 6), (second(0), bottom)], INK, 1.2)
    for row, (entry, group) in enumerate(entries):
        y = TOP + ROW * (row + 0.5)
        canvas.words(left - GAP, y + 4, entry.name, "end")
        _seeds(canvas, entry, first, y)
        if (gap := gaps.get(entry.name)) is not None:
            _difference(canvas, gap, second, y)
        canvas.words(after, y + 4, group, ink=SOFT)
    return canvas


def file_name(board: Board) -> str:
    """Of its picture, without an ending: protocol and data by name and hash, and what the board holds."""
    question = board.question
    kind = "" if board.kind == "fair" else "-extras"
    part = "-variants" if board.part == "variants" else ""
    protocol = slug(question.protocol.partition("+")[0])
    return f"board-{protocol}-{slug(question.data)}-{question.protocol_hash[:6]}{kind}{part}"


def _gap(board: Board, entry: Entry, reference: Entry) -> Gap | None:
    """Entry minus reference; the board has each pair once."""
    if (found := board.gaps.get((entry.name, reference.name))) is not None:
        return found
    found = board.gaps.get((reference.name, entry.name))
    return found.turned() if found is not None else None


def _axis(canvas: Canvas, values: Sequence[float], left: float, bottom: float, words: str) -> Scale:
    across = Scale(min(values) - 0.5, max(values) + 0.5, left, left + WIDTH)
    for tick in across.ticks(6):
        canvas.line([(across(tick), TOP - 6), (across(tick), bottom)], RULE, 0.8)
        canvas.words(across(tick), bottom + 18, number(tick), "middle", 11, SOFT)
    canvas.words(left + WIDTH / 2, bottom + 38, words, "middle", ink=SOFT)
    return across


def _seeds(canvas: Canvas, entry: Entry, across: Scale, y: float) -> None:
    values = entry.values(METRIC).values()
    mean = sum(values) / len(values)
    canvas.line([(across(mean), y - 7), (across(mean), y + 7)], colour(0), 2.4)
    for value in values:
        canvas.dot(across(value), y, 2.6, INK, 0.55)
    canvas.words(across.end + GAP, y + 4, f"{mean:.1f}")


def _difference(canvas: Canvas, gap: Gap, across: Scale, y: float) -> None:
    ink, spread = colour(1), ""
    if gap.low is not None and gap.high is not None and gap.tested:
        canvas.line([(across(gap.low), y), (across(gap.high), y)], ink, 4)
        spread = f" ± {(gap.high - gap.low) / 2:.1f}"
    canvas.dot(across(gap.mean), y, 4, ink)
    canvas.words(across.end + GAP, y + 4, f"{gap.mean:+.1f}{spread}".replace("-", MINUS))
