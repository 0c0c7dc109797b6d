"""A finished table as Markdown, CSV and JSON: the same runs give the same bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.comparison.intervals import Gap, Interval
from harness.core.files import write_atomically
from harness.drawing.svg import signed
from harness.paper.outcome import VERDICTS, Line
from harness.paper.planning import NOT_REGISTERED, TablePlan
from harness.paper.published import source
from harness.records.schema import METRICS, RunRecord
from harness.records.store import ResultsStore


def write_table(store: ResultsStore, plan: TablePlan, lines: Sequence[Line]) -> tuple[Path, Path]:
    """Write the Markdown and the CSV file beside the records, in place of older ones."""
    stem = store.root / "tables" / _name(plan)
    paths = stem.with_name(f"{stem.name}.md"), stem.with_name(f"{stem.name}.csv")
    for path, text in zip(paths, (markdown(plan, lines), as_csv(plan, lines)), strict=True):
        write_atomically(path, text)
    return paths


def _name(plan: TablePlan) -> str:
    """``table-4-cpu``; with the kind of data where it is not what the scale has of its own."""
    kinds = {planned.place.data.partition(":")[0] for planned in plan.rows if planned.place.data is not None}
    usual = {plan.scale.data} if plan.scale.data else {planned.row.kind for planned in plan.rows}
    other = [] if kinds <= usual or len(kinds) > 1 or plan.table.number == 8 else sorted(kinds)
    return "-".join(["table", str(plan.table.number), plan.scale.name, *other])


def markdown(plan: TablePlan, lines: Sequence[Line]) -> str:
    """The table for people, with a caption that says what it is and is not."""
    sizes = any(name in line.paper.metrics for line in lines for name in METRICS[3:])
    printed = METRICS if sizes else METRICS[:3]
    head = ["row", "method", "setting", *(f"paper {name}" for name in printed), "ours AP", "ours AP50", "ours AP75",
            "seeds", "paper's gain", "our gain [95 %]", "verdict", "run as"]  # fmt: skip
    rows = [_cells(plan, line, printed) for line in lines]
    parts = [
        f"# Table {plan.table.number} at scale {plan.scale.name}: {plan.table.title}",
        "\n".join([_row(head), _row(["---"] * len(head)), *map(_row, rows)]),
        "\n".join(f"- {sentence}" for sentence in caption(plan, lines)),
        f"Paper: {source(plan.table.number)}",
    ]
    return "\n\n".join(parts) + "\n"


def caption(plan: TablePlan, lines: Sequence[Line]) -> list[str]:
    """What a reader has to know, a sentence or two each."""
    sentences = [_conditions(plan, lines)]
    if plan.scale.full and plan.table.same_images:
        sentences.append("Numbers and gains may both be held against the paper's.")
    else:
        sentences.append("Compare gains alone: our numbers are of other images or a smaller training than the paper's.")
    if plan.scale.note and any(line.planned.row.backbone for line in lines):
        sentences.append(plan.scale.note)
    sentences += plan.table.notes
    references = dict.fromkeys(line.planned.row.reference for line in lines)
    sentences.append(
        f"Gains are over row {' or '.join(references)}, on the same seeds; intervals are at 95 %, each by itself, and "
        "that of a gain covers the choice of images where the details of its runs are at hand."
    )
    verdicts = dict.fromkeys(line.verdict for line in lines)
    sentences += [f"{word}: {VERDICTS[word]}." for word in verdicts if word in VERDICTS]
    notes = {line.planned.row.name: filter(None, (line.planned.row.note, line.paper.note)) for line in lines}
    sentences += [f"Row {name}: {words}." for name, parts in notes.items() if (words := "; ".join(parts))]
    return sentences


def _conditions(plan: TablePlan, lines: Sequence[Line]) -> str:
    """Protocol and data of the runs."""
    places = []
    for place in dict.fromkeys(line.planned.place for line in lines):
        titles = {record.data.title for line in lines if line.planned.place == place
                  for record in (line.entry.records if line.entry else ())}  # fmt: skip
        data = ", ".join(sorted(titles)) or (place.data.partition(":")[0] if place.data else "data not named")
        places.append(f"protocol {Path(place.origin).stem} on {data}")
    seeds = ", ".join(map(str, plan.seeds))
    return f"Ours: {'; '.join(places)}; seeds {seeds}; each row changes of the protocol what it says, nothing else."


def _cells(plan: TablePlan, line: Line, printed: Iterable[str]) -> list[str]:
    entry, row = line.entry, line.planned.row
    run_as = " ".join([f"`{row.assigner}`", *(f"`{text}`" for text in line.planned.tuning.overrides)])
    return [
        row.name, line.paper.method, line.paper.setting,
        *(_number(line.paper.metrics.get(name)) for name in printed), _interval(line.interval),
        *(_number(entry.mean(name) if entry is not None else None) for name in ("AP50", "AP75")),
        _seeds(plan, line), _signed(line.paper_gain), _gain(line.gain), line.verdict, run_as,
    ]  # fmt: skip


def _seeds(plan: TablePlan, line: Line) -> str:
    done = len(plan.seeds) - len(line.missing)
    return "" if line.planned.obstacle else f"{done} of {len(plan.seeds)}" if line.missing else str(done)


def _interval(interval: Interval | None) -> str:
    return "" if interval is None or interval.mean is None else str(interval)


def _gain(gain: Gap | None) -> str:
    if gain is None:
        return ""
    bounds = f" [{_signed(gain.low)}, {_signed(gain.high)}]" if gain.low is not None else ""
    return f"{_signed(gain.mean)}{bounds}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _signed(value: float | None) -> str:
    return "" if value is None else signed(value)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def as_csv(plan: TablePlan, lines: Iterable[Line]) -> str:
    """The table for programs: everything of `as_json`, numbers to two places."""
    buffer, rows = io.StringIO(), as_json(plan, lines)
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(key, value) for key, value in row.items()} for row in rows)
    return buffer.getvalue()


def as_json(plan: TablePlan, lines: Iterable[Line]) -> list[dict[str, Any]]:
    """Each line as plain JSON values by column, in their order."""
    return [_values(plan, line) for line in lines]


def _values(plan: TablePlan, line: Line) -> dict[str, Any]:
    planned, entry, interval, gain = line.planned, line.entry, line.interval, line.gain
    records: Sequence[RunRecord] = entry.records if entry is not None else ()
    means = {name: entry.mean(name) if entry is not None else None for name in METRICS}
    return {
        "table": plan.table.number, "scale": plan.scale.name, "row": planned.row.name, "method": line.paper.method,
        "split": line.paper.split, "setting": line.paper.setting,
        **{f"paper_{name}": line.paper.metrics.get(name) for name in METRICS},
        "assigner": planned.row.assigner, "overrides": list(planned.tuning.overrides),
        "protocol": Path(planned.place.origin).stem, "protocol_hash": planned.protocol.digest,
        "data": records[0].data.title if records else None,
        "seeds": [record.seed for record in records],
        "AP": means.pop("AP"), "AP_low": interval.low if interval else None,
        "AP_high": interval.high if interval else None, **means,
        "reference": planned.row.reference, "paper_gain": line.paper_gain,
        "gain": gain.mean if gain else None, "gain_low": gain.low if gain else None,
        "gain_high": gain.high if gain else None, "gain_p": gain.p if gain else None,
        "verdict": line.verdict, "run_ids": [record.run_id for record in records], "note": line.paper.note,
    }  # fmt: skip


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.4f}" if key == "gain_p" else f"{value:.1f}" if key.startswith("paper_") else f"{value:.2f}"
    return value


def missing_runs(lines: Iterable[Line]) -> list[str]:
    """What a wanted row still lacks, in words; rows of assigners to come lack nothing."""
    return [
        f"row {line.planned.row.name} ({line.planned.row.assigner}) seed {', '.join(map(str, line.missing))}"
        for line in lines
        if line.missing and line.planned.wanted and line.planned.obstacle != NOT_REGISTERED
    ]
