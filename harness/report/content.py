"""What stands in the report, from the results store to the values that the template prints."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.comparison.board import Board, BoardEntry, boards, parts, sharpest_first
from harness.core.errors import UserError
from harness.core.text import counted
from harness.data.sources import needs_folder
from harness.drawing.svg import DASH, number
from harness.protocol.protocol import load_protocol
from harness.records.details import load_details
from harness.records.schema import RunRecord
from harness.records.store import ResultsStore
from harness.report import charts
from harness.report.agreement import Agreement, load_agreement
from harness.report.cells import Series, Table, estimate
from harness.report.charts import Curve, Point
from harness.report.forests import error_table, search_tables, size_tables
from harness.report.pictures import Samples, sample_pictures
from harness.report.tables import gap_table, main_table
from harness.report.words import caveats, findings, headline, listing
from harness.sweeps.execute import sensitivity

CURVES = (
    ("losses", "class", "Class loss", True),
    ("losses", "box", "Box loss", True),
    ("statistics", "iou_of_positives", "Mean IoU of the positives", False),
)


@dataclass(frozen=True)
class Drawing:
    """A chart with its caption, and a note on what it leaves out."""

    caption: str
    chart: Markup
    note: str = ""


@dataclass(frozen=True)
class Run:
    """Where one row of the board comes from."""

    name: str  # of the assigner
    record: RunRecord
    result: str
    versions: str
    anchor: str  # that the board leads to; the first run of an assigner has one


@dataclass(frozen=True)
class Section:
    """One board with everything that is told about it. Parts that there is no data for are empty."""

    anchor: str
    title: str
    kind: str
    facts: tuple[tuple[str, str], ...]
    headline: str
    findings: tuple[str, ...]
    caveats: tuple[str, ...]
    board: Table
    gaps: Table | None
    cost: Markup | None
    sizes: tuple[Table, ...]
    curves: tuple[Drawing, ...]
    errors: Table | None
    agreement: Agreement | None
    samples: Samples | None
    runs: tuple[Run, ...]
    machine: str  # device and versions of all runs, where they are the same
    repeat: str

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Anchor and name of what the section holds."""
        parts = [
            ("board", "board", self.board), ("gaps", "gaps", self.gaps), ("cost", "cost", self.cost),
            ("sizes", "size and shape", self.sizes), ("curves", "learning curves", self.curves),
            ("errors", "mistakes", self.errors), ("agreement", "agreement", self.agreement),
            ("samples", "pictures", self.samples and self.samples.rows), ("runs", "provenance", self.runs),
        ]  # fmt: skip
        return [(anchor, name) for anchor, name, content in parts if content]


@dataclass(frozen=True)
class Content:
    """The whole report."""

    subtitle: str  # how much there is
    sections: tuple[Section, ...]  # one per board
    problems: tuple[str, ...] = ()  # files that were left out
    sensitivity: tuple[Table, ...] = ()  # of searches over protocols, by question


def collect(store: ResultsStore, *, pictures: bool) -> Content:
    """Read the store and say everything that it gives, with the pictures of runs evaluated here or without.

    Raises:
        UserError: if there is no run.
    """
    records, problems = store.load_all()
    if not records:
        raise UserError(
            f"no runs under {store.runs_dir}; `harness run --assigner iqdet` makes one, --results DIR looks elsewhere"
        )
    details, broken = load_details(store, {record.run_id for record in records})
    shown = [part for board in sharpest_first(boards(records, details)) for part in parts(board)]
    searches = sensitivity(records)
    names = {entry.name for board in shown for entry in board.entries}
    searched = {curve.name for search in searches for curve in search.curves}
    series = {name: index for index, name in enumerate(sorted(names | searched))}
    sections, unread = [], []
    for position, board in enumerate(shown, start=1):
        agreement, lines = load_agreement(store.root, board, series)
        unread += lines
        sections.append(_section(store, board, series, f"board-{position}", agreement, pictures))
    # A run of an assigner's defaults stands on its board and among the variants: it is one run.
    runs = {record.run_id: record for board in shown for entry in board.entries for record in entry.records}
    newest = max(record.created for record in runs.values())[:10]
    assigners = {record.assigner for record in runs.values()}
    return Content(
        subtitle=f"{counted(len(runs), 'run')} of {counted(len(assigners), 'assigner')}, newest of {newest}",
        sections=tuple(sections),
        problems=(*problems, *broken, *unread),
        sensitivity=tuple(search_tables(searches, series)),
    )


def _section(
    store: ResultsStore, board: Board, series: Series, anchor: str, agreement: Agreement | None, pictures: bool
) -> Section:
    question = board.question
    runs = tuple(
        _run(entry, record, f"{anchor}-run-{series[entry.name]}" if record is entry.records[0] else "")
        for entry in board.entries
        for record in entry.records
    )
    words = ["extended board"] * (board.kind == "extended") + ["variants"] * (board.part == "variants")
    which = f" ({', '.join(words)})" if words else ""
    machines = {f"{run.record.environment.device}: {run.versions}" for run in runs}
    return Section(
        anchor=anchor,
        title=f"{question.data}, protocol {question.protocol}{which}",
        kind=board.kind,
        facts=_facts(board),
        headline=headline(board),
        findings=tuple(findings(board)),
        caveats=tuple(caveats(board)),
        board=main_table(board, series, f"{anchor}-run"),
        gaps=gap_table(board, series),
        cost=_cost_chart(board, series),
        sizes=tuple(size_tables(board, series)),
        curves=tuple(_curves(board.entries, series)),
        errors=error_table(board, series),
        agreement=agreement,
        samples=sample_pictures(store, board, series) if pictures else None,
        runs=runs,
        machine=machines.pop() if len(machines) == 1 else "",
        repeat=repeat_command(board),
    )


def _facts(board: Board) -> tuple[tuple[str, str], ...]:
    record = board.entries[0].records[-1]
    data, protocol = record.data, record.protocol
    model, schedule = protocol.content["model"], protocol.content["schedule"]
    splits = [
        f"{counted(part.images, 'image')}, {counted(part.boxes, 'object')} ({part.split}, {part.checksum[:12]})"
        for part in (data.train, data.val)
    ]
    return (
        ("Data", f"{data.title}, {counted(len(data.classes), 'class', 'es')}: "
                 f"{listing(data.classes[:12])}{' ...' if len(data.classes) > 12 else ''}"),
        ("Trained on", splits[0]),
        ("Evaluated on", splits[1]),
        ("Protocol", f"{protocol.name} ({protocol.hash}): {model['backbone']}, {schedule['steps']} steps of "
                     f"{counted(schedule['batch_size'], 'image')}, {schedule['optimizer']} at {schedule['lr']:g}"),
    )  # fmt: skip


def _cost_chart(board: Board, series: Series) -> Markup | None:
    points = []
    for entry in board.entries:
        result, cost = estimate(entry.values("AP").values()), entry.cost("step_ms")
        if result is None or cost is None:
            continue
        known = [record.cost.step_ms for record in entry.records]
        points.append(Point(entry.name, series[entry.name], cost, min(known), max(known), result))
    if len(points) < 2:
        return None
    across, up = "training step, ms (fastest run, and range over runs)", "AP, points (mean and 95 % interval)"
    return charts.scatter(points, across, up)


def _curves(entries: Sequence[BoardEntry], series: Series) -> Iterable[Drawing]:
    for group, name, caption, log in CURVES:
        lines, without = [], []
        for entry in entries:
            traces = [details.trace for details in entry.details if details is not None]
            named = [(trace.step, getattr(trace, group).get(name, ())) for trace in traces]
            known = [(steps, values) for steps, values in named if any(value is not None for value in values)]
            if known:
                lines.append(_averaged(entry, known, series))
            elif traces:
                without.append(entry.name)
        if lines:
            note = f"Without it: {listing(without)}." if without else ""
            yield Drawing(caption, charts.curves(lines, f"{caption} over training", log=log), note)


def _averaged(entry: BoardEntry, traces: Sequence[tuple[list[int], list[float | None]]], series: Series) -> Curve:
    """The mean over seeds at each step that a seed has a value for."""
    at: dict[int, list[float]] = {}
    for steps, values in traces:
        for step, value in zip(steps, values, strict=True):
            if value is not None:
                at.setdefault(step, []).append(value)
    steps = sorted(at)
    return Curve(entry.name, series[entry.name], steps, [sum(at[step]) / len(at[step]) for step in steps])


def _run(entry: BoardEntry, record: RunRecord, anchor: str) -> Run:
    metric = record.metrics.AP
    names = ("python", "torch", "torchvision", "timm", "pycocotools", "cuda")
    versions = {name: getattr(record.environment, name, None) for name in names}
    known = ", ".join(f"{name} {value}" for name, value in versions.items() if value is not None)
    return Run(entry.name, record, DASH if metric is None else number(metric, 2), known, anchor)


def repeat_command(board: Board) -> str:
    """One line that makes the whole board again, or nothing where there is no such line.

    There is one where every assigner ran on seeds 0 to n-1 of embedded data under a protocol that has a name.
    """
    record, seeds = board.entries[0].records[-1], board.entries[0].seeds
    same = all(entry.seeds == seeds for entry in board.entries) and seeds == tuple(range(len(seeds)))
    if not same or needs_folder(record.data.kind):
        return ""
    try:
        if load_protocol(board.question.protocol).digest != board.question.protocol_hash:
            return ""
    except UserError:
        return ""  # a protocol of the user's own, or with changes
    names = ",".join(entry.name for entry in board.entries)
    words = ["harness", "sweep", "-a", names, "--seeds", str(len(seeds)), "-p", board.question.protocol]
    return shlex.join(words)
