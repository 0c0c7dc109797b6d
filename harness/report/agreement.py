"""What assigners choose on the same frozen predictions, and how far they agree, as `harness insight` wrote it down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.comparison.board import Board
from harness.core.errors import reason
from harness.core.text import counted
from harness.drawing.svg import number
from harness.report.cells import Cell, Column, Series, Table, missing, row

PARAMETERS = {
    "none": "has no parameters of its own",
    "own": "with the parameters that the run left it",
    "shared": "with the parameters of the run's assigner, which fit",
    "untrained": "with parameters of its own that nothing has trained",
}


@dataclass(frozen=True)
class Agreement:
    """Two tables on one batch: agreement of each pair, and what each assigner chose."""

    matrix: Table
    choices: Table
    note: str


def load_agreement(root: Path, board: Board, series: Series) -> tuple[Agreement | None, list[str]]:
    """Of a fair board's question, where there is any; and one line for a file that cannot be used."""
    question = board.question
    path = root / "insight" / f"{question.protocol_hash}-{question.data_hash}.json"
    if board.kind == "extended" or board.part == "variants" or not path.exists():
        return None, []
    try:
        return _agreement(json.loads(path.read_bytes()), series), []
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        return None, [f"{path} is no file of `harness insight` ({reason(error)}); make it again"]


def _agreement(insight: Mapping[str, Any], series: Series) -> Agreement:
    chosen = insight["assigners"]
    names = [each["name"] for each in chosen]
    mass, cells = insight["agreement"]["all"]["mass"], insight["agreement"]["all"]["cells"]
    rows = [
        row(a, series, [_shared(a, b, mass[i][j], cells[i][j]) for j, b in enumerate(names)])
        for i, a in enumerate(names)
    ]
    matrix = Table("agreement on the positives", tuple(Column(name, kind="name") for name in names), tuple(rows))
    columns = (
        Column("positives per box", "mean over boxes"),
        Column("boxes without", "share of boxes that get no positive, %"),
        Column("ambiguous", "share of the cells read that positives of two boxes or more read, %"),
        Column("outside the box", "share of positives outside their box, %"),
        Column("off centre", "share of positives outside the middle half of their box, %"),
        Column("mean IoU", "of the frozen predictions at the positives"),
        Column("mean label", "soft label of the positives; 1 where labels are hard"),
        Column("label follows IoU", "rank correlation of label and IoU, where labels are soft"),
        Column("parameters", "where its own parameters come from", kind="name"),
    )
    choices = Table("what each chooses", columns, tuple(row(each["name"], series, _chosen(each)) for each in chosen))
    note = (
        f"Every assigner on the same predictions: {insight['boxes']} boxes in "
        f"{counted(len(insight['image_ids']), 'image')}, the detector of run {insight['run_id']}. Agreement is the "
        "Jaccard index of the positives' mass, each box's scaled to 1: 0 for nothing in common, 1 for the same."
    )
    return Agreement(matrix, choices, note)


def _shared(a: str, b: str, mass: float | None, cells: float | None) -> Cell:
    if mass is None:
        return missing("neither has a positive")
    plain = f"; of the plain sets of cells {number(cells, 2)}" if cells is not None else ""
    words = "" if a == b else f"{mass:.2f}"
    return Cell(words, f"{a} and {b}: {number(mass, 2)}{plain}", mass, kind="same" if a == b else "number", share=mass)


def _chosen(each: Mapping[str, Any]) -> list[Cell]:
    per_box, outside, quality = each["per_box"], each["outside"], each["quality"]
    shares = [per_box["without"], each["ambiguous"]["share"], outside["box"], outside["centre"]]
    return [
        _number(per_box["positives"], 1),
        *(_number(None if share is None else 100 * share, 1) for share in shares),
        *(_number(quality[name], 2) for name in ("iou", "label", "rank_correlation")),
        Cell(each["parameters"], PARAMETERS[each["parameters"]], each["parameters"], kind="name"),
    ]


def _number(value: float | None, digits: int) -> Cell:
    return missing("nothing defines it") if value is None else Cell(number(value, digits), sort=value)
