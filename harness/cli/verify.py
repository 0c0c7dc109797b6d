"""``harness verify``: the contract and published answers, asked of any assigner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from harness.cli.output import Stopped, console, emit, json_option, say
from harness.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from harness.verify.compare import Count, Verdict
    from harness.verify.contract import Outcome
    from harness.verify.subject import Subject

EXAMPLES = 20  # as harness.verify.contract has it, which needs torch
MARKS = {"passed": "green", "agrees": "green", "failed": "bold red", "differs": "bold red"}


@click.command("verify", short_help="Does an assigner keep the contract, and match published answers?")
@click.argument("assigner", metavar="NAME|FILE[K=V,...]")
@click.option(
    "--golden", type=click.Path(path_type=Path), metavar="DIR", help="Compare with the golden cases (*.npz) in there."
)
@click.option("--peer", "peers", multiple=True, metavar="PEER", help="Hold it to this peer's answers; may be repeated.")
@click.option(
    "--examples", type=click.IntRange(min=1), default=EXAMPLES, show_default=True, help="Scenes that most checks see."
)
@json_option
def command(assigner: str, golden: Path | None, peers: tuple[str, ...], examples: int, as_json: bool) -> None:
    """Ask an assigner every question of the contract, and compare it with published implementations.

    ASSIGNER is a registered name, or a Python file that defines one subclass of assigners.Assigner (FILE.py:Class
    where there are several); options go in brackets. Scenes are the same every time.

    With --golden, an assigner whose peers are known must equal them: through a slow NumPy oracle that imitates the
    peer's conventions, where a source checkout holds one, directly otherwise. Any other assigner is compared with
    every peer for information; --peer names those it must equal.

    Exit code 0 where everything holds and agrees outside `tie` and `fragile`, 1 where something fails or differs.

    \b
    Examples:
      harness verify atss
      harness verify 'center[radius=0]' --golden golden
      harness verify my_assigner.py --examples 100
      harness verify my_assigner.py:MyATSS --golden golden --peer mmdet_atss --json
    """
    if peers and golden is None:
        raise UserError("--peer names whose answers to compare with: give their folder with --golden DIR")
    progress, screen = console(as_json=True), console(as_json)
    from harness.verify.golden import golden_files
    from harness.verify.subject import find_subject

    files = golden_files(golden) if golden is not None else []
    subject = find_subject(assigner)
    _expect_peers(files, peers)
    outcomes = _contract(subject, examples, progress)
    screen.print(_contract_table(subject, outcomes))
    report: dict[str, Any] = {
        "assigner": subject.title,
        "options": dict(subject.options),
        "contract": [_outcome_json(outcome) for outcome in outcomes],
        "golden": None,
    }
    verdicts: list[Verdict] = []
    if golden is not None:
        verdicts, missing = _compare(subject, files, peers, progress)
        _show_golden(screen, subject, verdicts, missing)
        report["golden"] = {
            "folder": golden.name,
            "oracles": missing is None,
            "note": missing,
            "verdicts": [_verdict_json(verdict) for verdict in verdicts],
        }
    complaint = _complaint(outcomes, verdicts)
    report["ok"] = complaint is None
    if as_json:
        emit(report)
    if complaint is not None:
        raise Stopped(f"{subject.title}: {complaint}", 1)
    say(screen, f"{subject.title}: everything holds")


def _contract(subject: Subject, examples: int, progress: Console) -> list[Outcome]:
    from harness.verify.contract import CHECKS, run_check
    from harness.verify.contract import EXAMPLES as USUAL

    outcomes = []
    for index, check in enumerate(CHECKS, start=1):
        outcome = run_check(check, subject.factory, examples / USUAL)
        outcomes.append(outcome)
        say(progress, f"[{index}/{len(CHECKS)}] {check.title}: {outcome.status}")
    return outcomes


def _expect_peers(files: Sequence[Path], peers: Sequence[str]) -> None:
    """Tell of a damaged case or an unknown peer before the work begins, not in the middle of it."""
    from harness.verify.golden import read_case

    known = {peer.name for path in files for peer in read_case(path).peers}
    for peer in peers:
        if peer not in known:
            there = ", ".join(sorted(known)) or "none"
            raise UserError(f"--peer {peer}: not in these cases{did_you_mean(peer, known)}; there: {there}")


def _compare(
    subject: Subject, files: Sequence[Path], peers: Sequence[str], progress: Console
) -> tuple[list[Verdict], str | None]:
    """All verdicts, and why there are no oracles."""
    from harness.verify.compare import compare
    from harness.verify.golden import read_case
    from harness.verify.peers import Oracles

    oracles = Oracles()
    verdicts: list[Verdict] = []
    for index, path in enumerate(files, start=1):
        case = read_case(path)
        verdicts += compare(subject, case, oracles, peers)
        say(progress, f"[{index}/{len(files)}] {case.name}")
    return verdicts, oracles.missing


def _complaint(outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> str | None:
    failed = [outcome.check.name for outcome in outcomes if outcome.status == "failed"]
    differing = [verdict for verdict in verdicts if verdict.status == "differs"]
    parts = []
    if failed:
        parts.append(f"{len(failed)} of {len(outcomes)} checks failed ({', '.join(failed)})")
    if differing:
        compared = sum(verdict.status in ("agrees", "differs") for verdict in verdicts)
        parts.append(f"{len(differing)} of {compared} comparisons differ ({_named(differing)})")
    return "; ".join(parts) or None


def _named(verdicts: Sequence[Verdict], most: int = 3) -> str:
    names = [f"{verdict.case}/{verdict.peer}" for verdict in verdicts]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _contract_table(subject: Subject, outcomes: Sequence[Outcome]) -> Table:
    options = ", ".join(f"{key}={value}" for key, value in subject.options.items())
    table = Table(title=f"contract of {subject.title}{f' ({options})' if options else ''}", title_justify="left")
    for column in ("check", "what is expected", "scenes", "result", "what happened"):
        table.add_column(column, justify="right" if column == "scenes" else "left", overflow="fold")
    for outcome in outcomes:
        told = outcome.message or ""
        if outcome.scene is not None:
            told = f"{told}\nsmallest scene: {outcome.scene}"
        table.add_row(outcome.check.name, outcome.check.title, str(outcome.examples), _mark(outcome.status), Text(told))
    return table


def _show_golden(screen: Console, subject: Subject, verdicts: Sequence[Verdict], missing: str | None) -> None:
    table = Table(title="points equal of those compared, outside tie and fragile", title_justify="left")
    for column in ("case", "peer", "its own conventions", "oracle = peer", "oracle = it", "labels", "result"):
        table.add_column(column, justify="right" if "=" in column or column == "its own conventions" else "left")
    table.add_column("what happened", overflow="fold")
    left: dict[str, dict[str, int]] = {}  # reason, peer, cases
    for verdict in verdicts:
        if verdict.status == "not covered":
            cases = left.setdefault(str(verdict.reason), {})
            cases[verdict.peer] = cases.get(verdict.peer, 0) + 1
            continue
        further = " ".join(f"{name} {_share(count)}" for name, count in verdict.further.items())
        table.add_row(
            verdict.case, verdict.peer, _share(verdict.zoo), _share(verdict.oracle), _share(verdict.product), further,
            _mark(verdict.status), Text(verdict.reason or ""),
        )  # fmt: skip
    if table.row_count:
        screen.print(table)
    if missing is not None:
        say(screen, f"note: {missing}")
    for reason, cases in left.items():
        told = ", ".join(f"{peer} ({count}x)" for peer, count in cases.items())
        say(screen, f"not covered: {told}: {reason}")
    counted = [verdict for verdict in verdicts if verdict.zoo is not None]
    compared = sum(verdict.zoo.compared for verdict in verdicts if verdict.zoo is not None)
    equal = sum(verdict.zoo.equal for verdict in verdicts if verdict.zoo is not None)
    say(
        screen,
        f"{len(counted)} of {len(verdicts)} pairs of case and peer compared: {equal} of {compared} points equal "
        f"under the conventions of {subject.title}",
    )
    if any(verdict.status == "information" for verdict in verdicts):
        say(screen, f"no peer of {subject.title} is known: the figures are for information; --peer holds it to one")


def _mark(status: str) -> Text:
    return Text(status, style=MARKS.get(status, "dim"))


def _share(count: Count | None) -> str:
    return "-" if count is None else f"{count.equal}/{count.compared}"


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "check": outcome.check.name,
        "title": outcome.check.title,
        "status": outcome.status,
        "scenes": outcome.examples,
        "smallest_scene": outcome.scene,
        "message": outcome.message,
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    def count(value: Count | None) -> dict[str, int] | None:
        return None if value is None else {"compared": value.compared, "equal": value.equal}

    return {
        "case": verdict.case,
        "peer": verdict.peer,
        "status": verdict.status,
        "points": verdict.points,
        "own_conventions": count(verdict.zoo),
        "oracle_and_peer": count(verdict.oracle),
        "oracle_and_assigner": count(verdict.product),
        "further": {name: count(value) for name, value in verdict.further.items()},
        "reason": verdict.reason,
    }
