"""What ``harness verify`` prints: checks, cases and peers as tables and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.cli.console.output import new_table, say
from harness.cli.console.tables import show

if TYPE_CHECKING:
    from harness.verify.checks.catalogue import Outcome
    from harness.verify.published.agreement import Count
    from harness.verify.published.compare import Verdict
    from harness.verify.subject import Subject

AS_JSON = {"zoo": "own_conventions", "oracle": "oracle_and_peer", "product": "oracle_and_assigner"}  # of a `Verdict`
MARKS = {"passed": "green", "agrees": "green", "failed": "bold red", "differs": "bold red"}


def contract_table(subject: Subject, outcomes: Iterable[Outcome], *, failed_only: bool = False) -> Table:
    """Every check of an assigner, or those that failed."""
    options = ", ".join(f"{key}={value}" for key, value in subject.options.items())
    columns = ("check", "what is expected", "scenes", "result", "what happened")
    words = [name for name in columns if name != "scenes"]
    title = f"contract of {subject.title}{f' ({options})' if options else ''}"
    table = new_table(title, columns, words=words, folded=columns, style=None)
    for outcome in outcomes:
        if failed_only and outcome.status != "failed":
            continue
        what = outcome.message or ""
        if outcome.scene is not None:
            what = f"{what}\nsmallest scene: {outcome.scene}"
        table.add_row(outcome.check.name, outcome.check.title, str(outcome.examples), _mark(outcome.status), Text(what))
    return table


def summary_table(asked: Iterable[tuple[Subject, Sequence[Outcome]]]) -> Table:
    """One row per assigner: how many checks passed, and the names of those that did not."""
    columns = ("assigner", "passed", "skipped", "result", "failed")
    table = new_table("the contract", columns, words=("assigner", "result", "failed"), folded=columns, style=None)
    for subject, outcomes in asked:
        by = {status: [o.check.name for o in outcomes if o.status == status] for status in ("passed", "failed")}
        left = len(outcomes) - sum(map(len, by.values()))
        result = "failed" if by["failed"] else "passed"
        table.add_row(subject.title, str(len(by["passed"])), str(left), _mark(result), Text(", ".join(by["failed"])))
    return table


def show_golden(screen: Console, subject: Subject, verdicts: Sequence[Verdict]) -> None:
    """An assigner's comparisons case by case, what was left out and why, and the sums."""
    shares, words = ("its own conventions", "oracle = peer", "oracle = it"), ("numbers", "result", "what happened")
    table = new_table(
        "equal of those compared, outside tie and fragile", ("case", "peer", *shares, *words),
        words=("case", "peer", *words), folded=("what happened",), style=None,
    )  # fmt: skip
    left: dict[str, dict[str, int]] = {}  # reason, peer, cases
    for verdict in verdicts:
        if verdict.status == "not covered":
            cases = left.setdefault(str(verdict.reason), {})
            cases[verdict.peer] = cases.get(verdict.peer, 0) + 1
            continue
        table.add_row(
            verdict.case, verdict.peer, _share(verdict.zoo), _share(verdict.oracle), _share(verdict.product),
            _numbers(verdict), _mark(verdict.status), Text(verdict.reason or ""),
        )  # fmt: skip
    if table.row_count:
        show(screen, table, ("oracle = it", "numbers", "its own conventions"))
    for reason, cases in left.items():
        peers = ", ".join(f"{peer} ({count}x)" for peer, count in cases.items())
        say(screen, f"not covered: {peers}: {reason}")
    counted = [verdict.zoo for verdict in verdicts if verdict.zoo is not None]
    say(
        screen,
        f"{sum(verdict.status != 'not covered' for verdict in verdicts)} of {len(verdicts)} pairs of case and peer "
        f"compared: {_sum(counted)} points equal under the conventions of {subject.title}",
    )
    for peer, row in peers_json(verdicts).items():
        say(screen, f"{peer}: {row['agree']} of {row['cases']} cases agree")
    if any(verdict.status == "information" for verdict in verdicts):
        say(screen, f"no peer of {subject.title} is known: the figures are for information; --peer holds it to one")


def show_peers(screen: Console, verdicts: Sequence[Verdict], peers: Sequence[str]) -> None:
    """One row per peer over all cases, those that nobody answers for too."""
    shares = ("cases that agree", "oracle = peer", "oracle = assigner")
    words = ("numbers", "result", "what differs first")
    table = new_table(
        "peers: equal of those compared, outside tie and fragile", ("peer", "assigner", *shares, *words),
        words=("peer", "assigner", *words), folded=("what differs first",), style=None,
    )  # fmt: skip
    for peer in peers:
        rows = [verdict for verdict in verdicts if verdict.peer == peer]
        if not rows:
            table.add_row(peer, "-", "-", "-", "-", "", _mark("not covered"), "")
            continue
        numbers = [count for verdict in rows for count in _all_numbers(verdict).values()]
        differing = [verdict for verdict in rows if verdict.status == "differs"]
        first = f"{differing[0].case}: {differing[0].reason}" if differing else ""
        table.add_row(
            peer, rows[0].assigner, f"{len(rows) - len(differing)}/{len(rows)}",
            _sum(verdict.oracle for verdict in rows), _sum(verdict.product for verdict in rows),
            _sum(numbers), _mark("differs" if differing else "agrees"), Text(first),
        )  # fmt: skip
    show(screen, table, ("numbers", "oracle = assigner"))


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """One check of the contract as JSON values."""
    return {
        "check": outcome.check.name,
        "title": outcome.check.title,
        "status": outcome.status,
        "scenes": outcome.examples,
        "smallest_scene": outcome.scene,
        "message": outcome.message,
    }


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """One comparison with a peer as JSON values."""
    return {AS_JSON.get(name, name): value for name, value in asdict(verdict).items()}


def peers_json(verdicts: Iterable[Verdict]) -> dict[str, dict[str, int]]:
    """Per peer that holds somebody to its answers: how many cases were compared, and how many agree."""
    peers: dict[str, dict[str, int]] = {}
    for verdict in verdicts:
        if verdict.status in ("agrees", "differs"):
            row = peers.setdefault(verdict.peer, {"cases": 0, "agree": 0})
            row["cases"] += 1
            row["agree"] += verdict.status == "agrees"
    return peers


def _all_numbers(verdict: Verdict) -> dict[str, Count]:
    return verdict.further if verdict.losses is None else {**verdict.further, "losses": verdict.losses}


def _numbers(verdict: Verdict) -> str:
    return " ".join(f"{name} {_share(count)}" for name, count in _all_numbers(verdict).items())


def _mark(status: str) -> Text:
    return Text(status, style=MARKS.get(status, "dim"))


def _share(count: Count | None) -> str:
    return "-" if count is None else f"{count.equal}/{count.compared}"


def _sum(counts: Iterable[Count | None]) -> str:
    known = [count for count in counts if count is not None]
    return f"{sum(c.equal for c in known)}/{sum(c.compared for c in known)}" if known else "-"
