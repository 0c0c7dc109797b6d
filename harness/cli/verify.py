"""``harness verify``: the contract and published answers, asked of any assigner, or of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from assigners.registry import catalogue
from harness.cli.console.options import json_option, option
from harness.cli.console.output import Stopped, console, emit, say
from harness.cli.views import verify as tables
from harness.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from harness.verify.checks.catalogue import Outcome
    from harness.verify.published.cases import Case
    from harness.verify.published.compare import Verdict
    from harness.verify.subject import Subject

EXAMPLES = 20  # as harness.verify.checks.catalogue has it, which needs torch


@dataclass(frozen=True)
class Finding:
    """What came of one assigner."""

    subject: Subject
    outcomes: Sequence[Outcome]
    # Under the options asked for; for all assigners, also under those that a peer answers for.
    verdicts: Sequence[Verdict] = ()

    @property
    def complaint(self) -> str | None:
        """What is wrong, in a line."""
        failed = [outcome.check.name for outcome in self.outcomes if outcome.status == "failed"]
        differing = [verdict for verdict in self.verdicts if verdict.status == "differs"]
        parts = []
        if failed:
            parts.append(f"{len(failed)} of {len(self.outcomes)} checks failed ({', '.join(failed)})")
        if differing:
            compared = sum(verdict.status in ("agrees", "differs") for verdict in self.verdicts)
            parts.append(f"{len(differing)} of {compared} comparisons differ ({_named(differing)})")
        return "; ".join(parts) or None


@click.command("verify")
@click.argument("assigner", required=False, metavar="[NAME|FILE[K=V,...]]")
@option(
    "--golden", type=click.Path(path_type=Path), metavar="DIR", help="Compare with the golden cases (*.npz) in there."
)
@option("--peer", "peers", multiple=True, metavar="PEER", help="Hold it to this peer's answers; may be repeated.")
@option("--examples", type=click.IntRange(min=1), default=EXAMPLES, help="Scenes that most checks see.")
@json_option
def command(assigner: str | None, golden: Path | None, peers: tuple[str, ...], examples: int, as_json: bool) -> None:
    """Ask an assigner every question of the contract, and compare it with published implementations.

    ASSIGNER is a registered name, or a Python file that defines one subclass of assigners.Assigner (FILE.py:Class
    where there are several); options go in brackets. Without it, every registered assigner is asked. Scenes are the
    same every time.

    With --golden, an assigner whose peers are known must equal them, by assignment, soft label or loss: through a slow
    NumPy oracle that imitates the peer's conventions, where there is one, directly otherwise. Any
    other assigner is compared with every peer for information; --peer names those it must equal.

    Exit code 0 where everything holds and agrees outside `tie` and `fragile`, 1 where something fails or differs.

    \b
    Examples:
      harness verify atss
      harness verify --golden golden
      harness verify 'center[radius=0]' --golden golden
      harness verify my_assigner.py --examples 100
      harness verify my_assigner.py:MyATSS --golden golden --peer mmdet_atss --json
    """
    if peers and golden is None:
        raise UserError("--peer names whose answers to compare with: give their folder with --golden DIR")
    if peers and assigner is None:
        raise UserError("--peer holds one assigner to a peer's answers: name the assigner too")
    progress, screen = console(as_json=True), console(as_json)
    from harness.verify.published.cases import golden_files, read_case

    files = golden_files(golden) if golden is not None else []
    if assigner is None:
        # A damaged case is told before the work begins, not in the middle of it.
        cases = [read_case(path) for path in files]
        findings = [_examined(entry.name, cases, examples, progress) for entry in catalogue()]
        complaint = _show_all(screen, findings, cases)
        verdicts = [verdict for finding in findings for verdict in finding.verdicts]
        report: dict[str, Any] = {
            "assigners": [{**_report(finding, golden), "ok": finding.complaint is None} for finding in findings],
            "peers": tables.peers_json(verdicts) if golden is not None else None,
        }
    else:
        finding = _one(assigner, files, peers, examples, progress, screen)
        complaint = f"{finding.subject.title}: {finding.complaint}" if finding.complaint else None
        report = _report(finding, golden)
    report["ok"] = complaint is None
    if as_json:
        emit(report)
    if complaint is not None:
        raise Stopped(complaint, 1)
    say(screen, f"{finding.subject.title if assigner else 'all assigners'}: everything holds")


def _one(
    assigner: str,
    files: Sequence[Path],
    peers: Sequence[str],
    examples: int,
    progress: Console,
    screen: Console,
) -> Finding:
    """One assigner, in detail."""
    from harness.verify.published.cases import read_case
    from harness.verify.subject import find_subject

    subject = find_subject(assigner)
    cases = [read_case(path) for path in files]
    known = {peer.name for case in cases for peer in case.peers}
    for peer in peers:
        if peer not in known:
            there = ", ".join(sorted(known)) or "none"
            raise UserError(f"--peer {peer}: not in these cases{did_you_mean(peer, known)}; there: {there}")
    outcomes = _contract(subject, examples, progress)
    screen.print(tables.contract_table(subject, outcomes))
    verdicts = _compare(subject, cases, peers, progress)
    if cases:
        tables.show_golden(screen, subject, verdicts)
    return Finding(subject, outcomes, verdicts)


def _contract(subject: Subject, examples: int, progress: Console | None) -> list[Outcome]:
    from harness.verify.checks.catalogue import CHECKS, run_check
    from harness.verify.checks.catalogue import EXAMPLES as USUAL

    outcomes = []
    for index, check in enumerate(CHECKS, start=1):
        outcome = run_check(check, subject.factory, examples / USUAL)
        outcomes.append(outcome)
        if progress is not None:
            say(progress, f"[{index}/{len(CHECKS)}] {check.title}: {outcome.status}")
    return outcomes


def _compare(subject: Subject, cases: Sequence[Case], peers: Sequence[str], progress: Console | None) -> list[Verdict]:
    from harness.verify.published.compare import compare

    verdicts: list[Verdict] = []
    for index, case in enumerate(cases, start=1):
        verdicts += compare(subject, case, peers)
        if progress is not None:
            say(progress, f"[{index}/{len(cases)}] {case.name}")
    return verdicts


def _examined(name: str, cases: Sequence[Case], examples: int, progress: Console) -> Finding:
    """One assigner of all: the contract under its defaults, and each peer under the options it answers for."""
    from assigners.registry import row_name
    from harness.verify.published.compare import peer_options
    from harness.verify.subject import find_subject

    subject = find_subject(name)
    outcomes = _contract(subject, examples, None)
    verdicts: list[Verdict] = []
    for options in peer_options(subject, cases):
        asked = find_subject(row_name(name, options))
        verdicts += [v for v in _compare(asked, cases, (), None) if v.status in ("agrees", "differs")]
    finding = Finding(subject, outcomes, verdicts)
    say(progress, f"{name}: {finding.complaint or 'everything holds'}")
    return finding


def _show_all(screen: Console, findings: Sequence[Finding], cases: Sequence[Case]) -> str | None:
    """Print what came of all assigners, and return what is wrong with any."""
    screen.print(tables.summary_table([(finding.subject, finding.outcomes) for finding in findings]))
    for finding in findings:
        if any(outcome.status == "failed" for outcome in finding.outcomes):
            screen.print(tables.contract_table(finding.subject, finding.outcomes, failed_only=True))
    if cases:
        verdicts = [verdict for finding in findings for verdict in finding.verdicts]
        tables.show_peers(screen, verdicts, sorted({peer.name for case in cases for peer in case.peers}))
    wrong = (f"{finding.subject.title}: {finding.complaint}" for finding in findings if finding.complaint)
    return "; ".join(wrong) or None


def _named(verdicts: Sequence[Verdict], most: int = 3) -> str:
    names = [f"{verdict.case}/{verdict.peer}" for verdict in verdicts]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _report(finding: Finding, golden: Path | None) -> dict[str, Any]:
    compared: dict[str, Any] | None = None
    if golden is not None:
        compared = {
            "folder": golden.name,
            "peers": tables.peers_json(finding.verdicts),
            "verdicts": [tables.verdict_json(verdict) for verdict in finding.verdicts],
        }
    return {
        "assigner": finding.subject.title,
        "options": dict(finding.subject.options),
        "contract": [tables.outcome_json(outcome) for outcome in finding.outcomes],
        "golden": compared,
    }
