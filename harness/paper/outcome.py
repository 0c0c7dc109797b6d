"""Paper | ours | gain | verdict, for every row of a table, from the records at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.comparison.board import BoardEntry, gap
from harness.comparison.intervals import Gap, Interval
from harness.paper.planning import PlannedRow, TablePlan
from harness.paper.published import Published, published
from harness.records.details import Details
from harness.records.lookup import RecordIndex
from harness.records.schema import RunRecord

METRIC = "AP"

REFERENCE = "the reference"
WITHIN = "within the paper's number"
LOST = "not in the paper"
NO_GAP = "no gap in the paper"
SAME, OPPOSITE, UNCLEAR = "same direction", "opposite direction", "not distinguishable"
INCOMPLETE = "incomplete"

VERDICTS = {
    WITHIN: "the 95 % interval of our AP holds the paper's; at the paper's own scale and images alone",
    SAME: "the 95 % interval of our gain lies on the side of zero on which the paper's gain is",
    OPPOSITE: "it lies on the other side",
    UNCLEAR: "it holds zero, or one seed tells nothing of training noise",
    NO_GAP: "ours is a gap where the paper prints equal numbers",
    LOST: "the paper's gain is unknown, its numbers being lost or not printed",
    INCOMPLETE: "runs of the row or of its reference are missing",
}


@dataclass(frozen=True)
class Line:
    """One row of the finished table."""

    planned: PlannedRow
    paper: Published
    entry: BoardEntry | None  # our runs that are through; None for none
    missing: tuple[int, ...]  # seeds without a record
    paper_gain: float | None  # over the reference row, in points as printed; None where unknown
    gain: Gap | None  # ours, paired by seed; None for the reference itself and where no seed is shared
    verdict: str  # one of this module's words

    @property
    def interval(self) -> Interval | None:
        """Our AP over seeds with its interval."""
        return self.entry.interval(METRIC) if self.entry is not None else None


def verdict(paper_gain: float | None, gain: Gap | None, number: tuple[float, Interval] | None = None) -> str:
    """What our runs say of a row; `VERDICTS` has each in words. The first that holds is the verdict.

    Args:
        paper_gain: over the reference row, in points; None where unknown.
        gain: ours; None for the reference row itself.
        number: the paper's AP and ours, where these may be compared.
    """
    if number is not None:
        printed, ours = number
        if ours.low is not None and ours.high is not None and ours.low <= printed <= ours.high:
            return WITHIN
    if gain is None:
        return REFERENCE
    if paper_gain is None:
        return LOST
    if not gain.tested or gain.low is None or gain.high is None or gain.low <= 0 <= gain.high:
        return UNCLEAR
    if paper_gain == 0:
        return NO_GAP
    return SAME if (gain.mean > 0) == (paper_gain > 0) else OPPOSITE


def lines(plan: TablePlan, records: Iterable[RunRecord], details: Mapping[str, Details]) -> list[Line]:
    """A line per row.

    Args:
        plan: the table; rows whose data were not named have no runs here.
        details: by run id; their replicates widen a gain's interval to images like these.
    """
    recorded = RecordIndex(records)
    entries = {planned.row.name: _entry(planned, recorded, details) for planned in plan.rows}
    paper = published(plan.table.number)
    return [_line(plan, planned, entries, paper) for planned in plan.rows]


def answers(plan: TablePlan, records: Iterable[RunRecord]) -> dict[str, list[str]]:
    """By row the run ids of the records that it is made of."""
    recorded = RecordIndex(records)
    return {
        planned.row.name: [record.run_id for record in _records(planned, recorded).values()] for planned in plan.rows
    }


def _records(planned: PlannedRow, recorded: RecordIndex) -> dict[int, RunRecord]:
    records = ((run.spec.seed, recorded.answer(run.spec)) for run in planned.runs)
    return {seed: record for seed, record in records if record is not None}


def _entry(planned: PlannedRow, recorded: RecordIndex, details: Mapping[str, Details]) -> BoardEntry | None:
    by_seed = _records(planned, recorded)
    if not by_seed:
        return None
    choice = planned.runs[0].choice
    runs = tuple(record for _, record in sorted(by_seed.items()))
    known = tuple(details.get(record.run_id) for record in runs)
    return BoardEntry(choice.name, choice.assigner, choice.options, choice.changed, runs, known)


def _line(
    plan: TablePlan, planned: PlannedRow, entries: Mapping[str, BoardEntry | None], paper: Mapping[str, Published]
) -> Line:
    row, entry = planned.row, entries[planned.row.name]
    reference, base = plan.row(row.reference), entries[row.reference]
    printed = paper[row.published]
    paper_gain = _paper_gain(plan, printed, paper[reference.row.published])
    missing = _missing(plan, planned, entry)
    is_reference = _same_runs(planned, reference)
    gain = gap(entry, base) if not is_reference and entry and base else None
    if planned.obstacle:
        words = planned.obstacle
    elif missing or (not is_reference and (gain is None or _missing(plan, reference, base))):
        words = INCOMPLETE
    else:
        comparable = plan.scale.full and plan.table.same_images and METRIC in printed.metrics
        numbers = (printed.metrics[METRIC], entry.interval(METRIC)) if comparable and entry is not None else None
        words = verdict(paper_gain, gain, numbers)
    return Line(planned, printed, entry, missing, None if is_reference else paper_gain, gain, words)


def _paper_gain(plan: TablePlan, printed: Published, reference: Published) -> float | None:
    over = reference.metrics.get(METRIC)
    if over is None and plan.table.base is not None:
        table, row = plan.table.base
        over = published(table)[row].metrics[METRIC]
    # Printed to a tenth of a point, and so is their difference.
    return round(printed.metrics[METRIC] - over, 1) if over is not None and METRIC in printed.metrics else None


def _missing(plan: TablePlan, planned: PlannedRow, entry: BoardEntry | None) -> tuple[int, ...]:
    """Seeds without an AP; a row that cannot be run misses none."""
    known = entry.values(METRIC) if entry is not None else {}
    return () if planned.obstacle else tuple(seed for seed in plan.seeds if seed not in known)


def _same_runs(a: PlannedRow, b: PlannedRow) -> bool:
    """Whether two rows are one, as Table 3's 7x7 and its RoIAlign."""
    return a.row.name == b.row.name or (bool(a.runs) and [r.spec for r in a.runs] == [r.spec for r in b.runs])
