"""What ``harness sweep`` shows: the plan with its cost, how the runs ended, how much tuning matters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.cli.console.output import new_table, points, say
from harness.cli.console.tables import show
from harness.core.text import counted
from harness.sweeps.cost import Need, SweepRow
from harness.sweeps.execute import Point, Result, Search, SearchCurve
from harness.sweeps.plan import Plan, PlannedRun, State, numeric_keys
from harness.sweeps.request import SHORT_KEYS

_STATES: tuple[State, ...] = get_args(State)


def duration(seconds: float | None) -> str:
    """Such as ``2 h 10 min``, or ``12 days``."""
    if seconds is None:
        return "unknown"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds >= 7 * 86400:
        return f"{seconds / 86400:.0f} days"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def show_preview(
    screen: Console, plan: Plan, table: Sequence[SweepRow], need: Need | None, gap: float, again: str
) -> None:
    """A row per assigner, totals, and the seeds that a gap needs."""
    columns = ("assigner", "runs", *_STATES, "to run", "time", "memory MB", "basis")
    shown = _table("what the sweep would run", columns, map(_preview_cells, table))
    total = _total(table)
    if len(table) > 1:
        shown.add_section()
        shown.add_row(*_preview_cells(total))
    show(screen, shown, ("basis", "memory MB", "interrupted"))
    say(screen, _seeds_line(need, gap, len({run.spec.seed for run in plan.runs})))
    _say_failed(screen, [run for run in plan.runs if run.state == "failed" and not plan.wants(run)], again)


def preview_json(plan: Plan, table: Sequence[SweepRow], need: Need | None) -> dict[str, Any]:
    """The same for a program; times in seconds."""
    return {
        "runs": [
            {**_run_json(run), "state": run.state, "to_run": plan.wants(run), "weights_of": run.weights_of}
            for run in plan.runs
        ],
        "assigners": [asdict(row) for row in table],
        "total": asdict(_total(table)),
        "seeds": asdict(need) if need is not None else None,
    }


def show_report(
    screen: Console,
    plan: Plan,
    ended: Sequence[Result],
    aps: Mapping[str, float | None],
    searches: Sequence[Search],
    again: str,
) -> None:
    """How each run ended, how to run failed ones again, and the sensitivity to what was tuned; APs are by run id."""
    rows = [(Text(result.run.title), result.outcome, points(_ap(result, aps))) for result in ended]
    show(screen, _table("runs of the sweep", ("run", "outcome", "AP"), rows))
    _say_failed(screen, [result.run for result in ended if result.failed], again)
    for search in searches:
        show(screen, _search_table(search, plan))
        for curve in search.curves:
            for key in search.at_edge(curve):
                edge = f"{curve.name} is best at the edge of the search for {key}"
                say(screen, f"warning: {edge}; widen it before comparing")


def report_json(ended: Iterable[Result], aps: Mapping[str, float | None], searches: Iterable[Search]) -> dict[str, Any]:
    """The same for a program."""
    return {
        "runs": [
            {**_run_json(result.run), "outcome": result.outcome, "error": result.error, "AP": _ap(result, aps)}
            for result in ended
        ],
        "sensitivity": [_search_json(search) for search in searches],
    }


def _ap(result: Result, aps: Mapping[str, float | None]) -> float | None:
    """Of a run that is through; a failed one may have an older record, which is not how it ended."""
    if result.outcome == "ran":
        return aps.get(result.run.run_id)
    return aps.get(result.run.answer or result.run.run_id) if result.outcome == "done before" else None


def _table(title: str, columns: Sequence[str], rows: Iterable[Iterable[Text | str]] = ()) -> Table:
    first = columns[0]
    return new_table(title, columns, rows, words=(first, "basis", "outcome"), folded=(first,), style="bold")


def _preview_cells(row: SweepRow) -> tuple[Text | str, ...]:
    runs = sum(row.counts.values())
    memory = points(row.memory_mb, 0) if row.memory_mb is not None else "unknown"
    cost = (duration(row.seconds), memory, Text(row.basis or "no record")) if row.todo else ("-", "-", "")
    return Text(row.name), str(runs), *(str(row.counts[state]) for state in _STATES), str(row.todo), *cost


def _total(table: Sequence[SweepRow]) -> SweepRow:
    """All assigners together; unknown as soon as one that is to be run is unknown."""
    open_rows = [row for row in table if row.todo]
    seconds = [row.seconds for row in open_rows if row.seconds is not None]
    memory = [row.memory_mb for row in open_rows if row.memory_mb is not None]
    return SweepRow(
        "all",
        {state: sum(row.counts[state] for row in table) for state in _STATES},
        sum(row.todo for row in table),
        sum(seconds) if len(seconds) == len(open_rows) else None,
        max(memory) if memory and len(memory) == len(open_rows) else None,
        "one after another",
    )


def _seeds_line(need: Need | None, gap: float, planned: int) -> str:
    if need is None:
        return (
            f"seeds for a gap of {gap:g} AP: nothing yet to estimate them from; "
            "it takes two assigners with two shared seeds under this protocol and data"
        )
    spread = need.spread
    wanted = "more than 1000" if need.seeds is None else str(need.seeds)
    return (
        f"seeds for a gap of {gap:g} AP: {wanted} (80 % power; sd of seed-paired differences {spread.sd:.2f} AP, "
        f"from {counted(spread.pairs, 'pair')} of assigners, {spread.df} degrees of freedom); this sweep has {planned}"
    )


def _say_failed(screen: Console, runs: Collection[PlannedRun], again: str) -> None:
    if runs:
        say(screen, f"failed: {', '.join(run.title for run in runs)}")
        say(screen, f"again:  {again}")


def _search_table(search: Search, plan: Plan) -> Table:
    """Mean AP by factor, the best factor and the spread."""
    names = {point: _factor_name(search, point, plan) for point in search.points}
    title = f"AP by factor on {', '.join(search.keys)}, protocol {search.protocol}, data {search.data}"
    table = _table(title, ("assigner", *names.values(), "best", "spread"))
    for curve in search.curves:
        cells = (_mean(curve, point) for point in search.points)
        table.add_row(Text(curve.name), *cells, names[curve.best], points(curve.spread))
    return table


def _factor_name(search: Search, point: Point, plan: Plan) -> str:
    """Such as ``lr x 0.5``."""
    short = {key: name for name, key in SHORT_KEYS.items()}
    words = []
    for key, value in zip(search.keys, point, strict=True):
        factors = (t.factors[key] for t in plan.tunings if numeric_keys(t.protocol.content())[key] == value)
        words.append(f"{short.get(key, key)} x {next(factors):g}")
    return ", ".join(words)


def _mean(curve: SearchCurve, point: Point) -> str:
    """The mean, and its seeds where other points of the assigner have more: a run that failed is missing there."""
    seeds, most = len(curve.aps.get(point, ())), max(map(len, curve.aps.values()))
    return points(curve.mean(point)) + (f" ({seeds} of {most} seeds)" if 0 < seeds < most else "")


def _run_json(run: PlannedRun) -> dict[str, Any]:
    protocol = run.spec.protocol
    return {
        "run_id": run.run_id,
        "assigner": run.choice.name,
        "options": run.choice.options,
        "seed": run.spec.seed,
        "factors": run.tuning.factors,
        "protocol": {"name": protocol.name, "hash": protocol.digest},
        "command": run.command,
    }


def _search_json(search: Search) -> dict[str, Any]:
    said = {name: getattr(search, name) for name in ("keys", "protocol", "data", "points")}
    return said | {"assigners": [_curve_json(search, curve) for curve in search.curves]}


def _curve_json(search: Search, curve: SearchCurve) -> dict[str, Any]:
    said = {name: getattr(curve, name) for name in ("name", "options", "best", "spread")}
    return said | {"AP": [curve.mean(point) for point in search.points], "at_edge": search.at_edge(curve)}
