"""What `harness table` shows: the plan, the finished table and the probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from harness.cli.console.output import new_table, points, say
from harness.cli.console.tables import show
from harness.cli.views.sweep import duration
from harness.paper.planning import PlannedRow, TablePlan
from harness.paper.probe import CHANGES, WORDS
from harness.protocol.protocol import load_protocol
from harness.records.schema import RunRecord
from harness.sweeps.cost import Costs
from harness.sweeps.plan import by_state

if TYPE_CHECKING:
    from harness.paper.outcome import Line


def finished(plan: TablePlan, lines: Sequence[Line]) -> Grid:
    """The table for a terminal: the columns that matter most."""
    columns = ("row", "method", "run as", "paper AP", "ours AP", "seeds", "paper's gain", "our gain", "verdict")
    words = ("method", "run as", "verdict")
    grid = new_table(f"Table {plan.table.number} at scale {plan.scale.name}", columns, words=words, style="bold")
    for line in lines:
        done = len(plan.seeds) - len(line.missing)
        grid.add_row(
            line.planned.row.name, Text(line.paper.method), Text(line.planned.row.assigner),
            points(line.paper.metrics.get("AP")), str(line.interval or "-"),
            "-" if line.planned.obstacle else f"{done}/{len(plan.seeds)}", points(line.paper_gain),
            points(line.gain.mean if line.gain else None), line.verdict,
        )  # fmt: skip
    return grid


def show_plan(screen: Console, plan: TablePlan, costs: Costs) -> None:
    """A row per row: its runs by state and what they take."""
    title = f"Table {plan.table.number} at scale {plan.scale.name}: {plan.table.title}"
    columns = ("row", "run as", "done", "failed", "missing", "time", "memory MB", "remark")
    grid = new_table(title, columns, words=("run as", "remark"), folded=columns, style="bold")
    for planned in plan.rows:
        values = row_json(planned, costs, plan)
        words = " ".join([planned.row.assigner, *planned.tuning.overrides])
        states = values["states"]
        counts = (states["done"], states["failed"], states["missing"] + states["interrupted"])
        memory = "unknown" if values["memory_mb"] is None else points(values["memory_mb"], 0)
        cost = (duration(values["seconds"]), memory) if values["to_run"] else ("-", "-")
        grid.add_row(planned.row.name, Text(words), *map(str, counts), *cost, Text(values["remark"]))
    show(screen, grid, ("remark", "memory MB"))
    runs = {
        (run.choice.name, planned.protocol.digest, planned.row.kind, run.spec.seed): run
        for planned in plan.rows
        if planned.wanted
        for run in planned.runs
        if plan.wants(run)
    }
    time = duration(costs.seconds(runs.values()))
    evaluated = sum(run.weights_of is not None for run in runs.values())
    alone = f"; {evaluated} of them only evaluated, on the weights of others" if evaluated else ""
    say(screen, f"to run: {len(runs)} runs, rows that come to the same run counted once{alone}; {time}")
    for place in dict.fromkeys(planned.place for planned in plan.rows):
        base, data = load_protocol(place.origin), place.data or "data to be named"
        say(screen, f"protocol {base.name} ({base.digest}) on {data}, changed as each row says")


def row_json(planned: PlannedRow, costs: Costs, plan: TablePlan) -> dict[str, Any]:
    """A planned row for a program; times in seconds."""
    todo = [run for run in planned.runs if planned.wanted and plan.wants(run)]
    seconds, memory, basis = costs.together(todo)
    if basis and planned.place.data is None:
        basis += ", evaluation left out"
    remark = basis or ("no record" if todo and not planned.obstacle else "")
    taken = [run.weights_of for run in todo if run.weights_of is not None]
    names = {run_id: f"row {other.row.name}" for other in plan.rows for run in other.runs
             for run_id in (run.run_id, run.answer)}  # fmt: skip
    givers = ", ".join(dict.fromkeys(names.get(run_id, f"run {run_id}") for run_id in taken))
    alone = f"evaluated alone, on the weights of {givers}" if taken else ""
    return {
        "row": planned.row.name,
        "assigner": planned.row.assigner,
        "overrides": list(planned.tuning.overrides),
        "protocol": {"name": planned.protocol.name, "hash": planned.protocol.digest},
        "data": planned.place.data,
        "states": by_state(planned.runs),
        "wanted": planned.wanted,
        "to_run": len(todo),
        "evaluated_alone": len(taken),  # of these
        "seconds": seconds if todo else None,
        "memory_mb": memory,
        "remark": "; ".join(filter(None, (planned.obstacle, alone, remark))),
    }


def probes(plan: TablePlan, records: Mapping[str, RunRecord]) -> Grid:
    """What each row's probe cost; the records are by row."""
    title = f"Table {plan.table.number} at scale {plan.scale.name}: {WORDS}"
    columns = ("row", "run as", "step s", "evaluation s", "memory MB", "parameters")
    grid = new_table(title, columns, words=("run as",), folded=columns, style="bold")
    for planned in plan.rows:
        words = " ".join([planned.row.assigner, *planned.tuning.overrides[: -len(CHANGES)]])
        cells = ["-"] * 4
        if planned.row.name in records:
            cost = records[planned.row.name].cost
            seconds = [points(ms / 1000, 2) for ms in (cost.step_ms, cost.eval_ms_per_image)]
            cells = [*seconds, points(cost.peak_memory_mb, 0), str(cost.parameters)]
        grid.add_row(planned.row.name, Text(words), *cells)
    return grid
