"""The measurements of assigners as Markdown for a README: a line per assigner, a table per machine and image size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf

from harness.bench.batches import CROWD, USUAL_BOXES, USUAL_CLASSES, USUAL_IMAGES
from harness.bench.measurements import Line, number_of, short
from harness.core.text import counted

FEW, SOME, MANY, BATCH = 7, 100, 500, 16
COLUMNS = {  # heading: boxes in each image, images, measure, per image
    **{f"ms, {boxes} boxes": (boxes, USUAL_IMAGES, "ms", False) for boxes in (FEW, SOME, MANY)},
    **{f"times faster, {boxes}": (boxes, USUAL_IMAGES, "ratio", False) for boxes in (FEW, SOME, MANY)},
    f"MiB, {MANY}": (MANY, USUAL_IMAGES, "mib", False),
    f"MiB, {CROWD} in one": (CROWD, 1, "mib", False),
    f"ms an image of {USUAL_BOXES}, alone": (USUAL_BOXES, 1, "ms", True),
    f"ms an image, {BATCH} together": (USUAL_BOXES, BATCH, "ms", True),
}
BY_COST = f"ms, {SOME} boxes"  # the column by which the assigners are in order

Place = tuple[str, ...]


def summary(lines: Sequence[Line]) -> str:
    """All tables, what was measured above each; a star stands for forward and backward, a dash for nothing known."""
    places = dict.fromkeys(_place(line) for line in lines)
    tables = ("\n".join(_table(place, [line for line in lines if _place(line) == place])) for place in places)
    return "\n\n".join(tables) + "\n"


def _place(line: Line) -> Place:
    return line["device"], line["threads"], line["torch"], line["size"]


def _table(place: Place, lines: Sequence[Line]) -> Iterator[str]:
    device, threads, torch, size = place
    threads = counted(int(threads), "thread")
    yield f"{device}, {threads}, torch {torch}: {USUAL_IMAGES} images of {size} px, {USUAL_CLASSES} classes"
    yield ""
    yield "| assigner | " + " | ".join(COLUMNS) + " |"
    yield "|---" + "|---:" * len(COLUMNS) + "|"
    rows = {name: _values(name, lines) for name in dict.fromkeys(line["assigner"] for line in lines)}
    costs = {name: inf if (cost := values[BY_COST]) is None else cost for name, values in rows.items()}
    for name in sorted(rows, key=costs.__getitem__):
        star = " *" * any(line["assigner"] == name and line["passes"] != "forward" for line in lines)
        yield f"| `{name}`{star} | " + " | ".join(map(short, rows[name].values())) + " |"


def _values(name: str, lines: Sequence[Line]) -> Mapping[str, float | None]:
    """What is known of an assigner, by heading."""
    known = {(line["assigner"], line["boxes"], line["images"], line["classes"]): line for line in lines}
    values: dict[str, float | None] = {}
    for heading, (boxes, images, measure, per_image) in COLUMNS.items():
        line = known.get((name, str(boxes), str(images), str(USUAL_CLASSES)))
        value = number_of(line, measure) if line is not None else None
        values[heading] = value / images if per_image and value is not None else value
    return values
