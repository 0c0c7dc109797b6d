"""Sample pictures of a board's runs, as they were drawn when the runs were evaluated, as PNG data URIs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness.comparison.board import Board, BoardEntry
from harness.core.errors import UserError, reading, reason
from harness.drawing.svg import key, png_uri
from harness.records.store import ResultsStore
from harness.report.cells import Series


@dataclass(frozen=True)
class Sample:
    """A picture of an assigner's positives."""

    name: str  # of the assigner
    key: Markup  # its mark
    source: str  # a data URI
    words: str  # what it shows
    detector: str  # whose predictions the assigner saw
    width: int  # px
    height: int  # px


@dataclass(frozen=True)
class Samples:
    """A row of pictures per image, and why some assigners have none."""

    rows: tuple[tuple[Sample, ...], ...]
    lacking: tuple[str, ...]


def sample_pictures(store: ResultsStore, board: Board, series: Series) -> Samples | None:
    """A row of pictures per image, one for each assigner of the board.

    Returns:
        None where no run of the board has any here: they lie with the weights, which do not travel with the records.
    """
    rows: dict[str, list[Sample]] = {}
    lacking = []
    for entry in board.entries:
        try:
            pictures = _pictures(store, entry)
        except UserError as error:
            lacking.append(f"None of {entry.name}: {error}.")
            continue
        for image, uri, seed in pictures:
            words = f"the samples that {entry.name} takes from {image['image']}"
            size = image["width"], image["height"]
            sample = Sample(entry.name, key(series[entry.name]), uri, words, f"seed {seed}", *size)
            rows.setdefault(image["image"], []).append(sample)
    return Samples(tuple(map(tuple, rows.values())), tuple(lacking)) if rows else None


def _pictures(store: ResultsStore, entry: BoardEntry) -> list[tuple[dict[str, Any], str, int]]:
    """Those of the first of an entry's runs that has them.

    Raises:
        UserError: if none has, or they cannot be read.
    """
    for record in entry.records:
        index = store.folder(record.run_id).samples
        if index.exists():
            return [(image, _data_uri(index.with_name(image["file"])), record.seed) for image in _index(index)]
    again = f"harness eval {entry.records[0].run_id} --details"
    raise UserError(f"its runs were evaluated elsewhere; where their weights lie, `{again}` draws them")


def _index(path: Path) -> list[dict[str, Any]]:
    try:
        listed, sides = json.loads(path.read_bytes()), ("width", "height")
        return [
            {"image": str(row["image"]), "file": Path(row["file"]).name, **{side: int(row[side]) for side in sides}}
            for row in listed
        ]
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise UserError(f"{path} lists no pictures ({reason(error)}); delete it") from error


def _data_uri(path: Path) -> str:
    with reading(str(path)):
        return png_uri(path.read_bytes())
