"""``harness compare``: what is between two assigners, with its interval."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from harness.cli.console.options import json_option, option, results_option
from harness.cli.console.output import console, emit, new_table, points, say, say_left_out
from harness.cli.console.tables import show
from harness.core.errors import UserError
from harness.records.store import ResultsStore

if TYPE_CHECKING:
    from harness.comparison.intervals import Gap
    from harness.comparison.pair import Comparison


_EQUAL = {"initial_weights": "the initial weights", "batches": "every batch, augmented"}
_STATE = {True: "equal, by digest", False: "DIFFERENT: other code, libraries or processor?", None: "not recorded"}


@click.command("compare")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@option("--protocol", metavar="NAME|HASH", help="Only under this protocol.")
@results_option
@json_option
def command(first: str, second: str, protocol: str | None, results: Path, as_json: bool) -> None:
    """Compare A with B, each an assigner with its options or a run id, under every protocol that both ran under.

    Seeds are paired: A minus B at the same seed has the same initial weights and the same images in the same order. The
    interval holds the noise of training (over seeds) and, where the runs' details are at hand, of the evaluated images
    (paired bootstrap). Two that never ran under one protocol are refused, with the keys that differ.

    \b
    Examples:
      harness compare atss center
      harness compare iqdet 'iqdet[level_gate=contains_grid]' --protocol shapes-cpu
      harness compare atss-small-s0 center-small-s0 --json
    """
    screen = console(as_json)
    store = ResultsStore(results)
    records, problems = store.load_all()

    from harness.comparison.board import boards
    from harness.comparison.pair import compare
    from harness.records.details import load_details

    details, broken = load_details(store, {record.run_id for record in records})
    say_left_out((*problems, *broken))
    chosen = [board for board in boards(records, details) if board.question.goes_by(protocol)]
    if protocol is not None and not chosen:
        raise UserError(f"no run under protocol {protocol!r} in {store.runs_dir}; `harness leaderboard` shows what ran")
    comparisons = compare(chosen, first, second)
    if as_json:
        emit([_plain(comparison) for comparison in comparisons])
        return
    for comparison in comparisons:
        _show(screen, comparison)


def _show(screen: Console, comparison: Comparison) -> None:
    a, b, question = comparison.a, comparison.b, comparison.board.question
    asked = f"protocol {question.protocol} ({question.protocol_hash}), data {question.data} ({question.data_hash})"
    say(screen, f"{asked}, {comparison.board.kind} board")
    if not comparison.gaps:
        seeds = f"{a.name} has {_list(a.seeds)}, {b.name} has {_list(b.seeds)}"
        say(screen, f"no shared seed: {seeds}; run one on the other's")
        return
    show(screen, _by_seed(comparison))
    show(screen, _gaps(comparison))
    say(screen, verdict(comparison))
    for name, equal in comparison.equal.items():
        say(screen, f"equal: {_EQUAL[name]} at each shared seed: {_STATE[equal]}")
    ratio = comparison.step_ratio()
    if ratio is not None:
        say(screen, f"cost: a step of {a.name} takes {ratio:.2f} times that of {b.name}")


def _by_seed(comparison: Comparison) -> Table:
    a, b = comparison.a, comparison.b
    left, right = a.values("AP"), b.values("AP")
    rows = [
        (str(seed), f"{left[seed]:.2f}", f"{right[seed]:.2f}", f"{left[seed] - right[seed]:+.2f}")
        for seed in sorted(left.keys() & right.keys())
    ]
    return new_table("AP by seed", ("seed", a.name, b.name, "difference"), rows, words=())


def _gaps(comparison: Comparison) -> Table:
    columns = ("metric", "difference", "95 % interval", "p", "error: training", "error: images")
    table = new_table(f"{comparison.a.name} minus {comparison.b.name}, points", columns)
    for name, gap in comparison.gaps.items():
        noise = (points(value, 3) for value in (gap.p, gap.se_seed, gap.se_image))
        table.add_row(name, f"{gap.mean:+.2f}", _interval(gap), *noise)
    return table


def verdict(comparison: Comparison) -> str:
    """The comparison of AP in words."""
    from harness.comparison.intervals import seeds_needed

    a, b, gap = comparison.a.name, comparison.b.name, comparison.gaps.get("AP")
    if gap is None or gap.low is None or gap.high is None:
        return "verdict: no interval: two shared seeds, or details of the runs, are needed for one"
    if gap.low > 0 or gap.high < 0:
        better, other, low, high = (a, b, gap.low, gap.high) if gap.low > 0 else (b, a, -gap.high, -gap.low)
        ahead = f"{better} is ahead of {other} by {low:.1f} to {high:.1f} AP (95 %)"
        if not gap.tested:
            return f"verdict: open: {ahead} as far as the images go, but one seed tells nothing of training noise"
        return f"verdict: {ahead}"
    text = f"verdict: not distinguishable on {gap.seeds} shared seed{'s' if gap.seeds > 1 else ''}"
    if gap.se_seed:
        wanted = seeds_needed(abs(gap.mean), gap.se_seed * gap.seeds**0.5)
        known = f"about {wanted} seeds" if wanted else "more than 1000 seeds"
        text += f"; were the true gap the {abs(gap.mean):.1f} seen, {known} would show it in four of five cases"
    return text


def _interval(gap: Gap) -> str:
    return "-" if gap.low is None or gap.high is None else f"{gap.low:+.2f} to {gap.high:+.2f}"


def _list(seeds: tuple[int, ...]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _plain(comparison: Comparison) -> dict[str, Any]:
    return {
        **comparison.board.question._asdict(),
        "board": comparison.board.kind,
        "a": comparison.a.name,
        "b": comparison.b.name,
        "seeds": comparison.seeds,
        "values": {entry.name: entry.values("AP") for entry in (comparison.a, comparison.b)},
        "gaps": {name: asdict(gap) for name, gap in comparison.gaps.items()},
        "equal": comparison.equal,
        "step_ratio": comparison.step_ratio(),
        "verdict": verdict(comparison).removeprefix("verdict: ") if comparison.gaps else "no shared seed",
    }
