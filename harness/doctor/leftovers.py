"""Work folders besides those of interrupted runs: trained runs without a record, and what no run needs any more."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.core.errors import UserError, shorten
from harness.core.files import held
from harness.core.text import counted
from harness.doctor.rows import Finding, from_error
from harness.records.failures import Failure
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec
from harness.records.inputs import recorded_protocol
from harness.records.pending import completing, load_pending, pending_runs
from harness.records.schema import RunRecord
from harness.records.store import ResultsStore
from harness.records.unfinished import unfinished_run


def waiting(store: ResultsStore, failed: Mapping[str, Failure]) -> dict[str, Finding]:
    """The trained runs that have no record yet, with the command that completes it.

    Args:
        failed: failures of a sweep; they say why.
    """
    findings = {}
    for run_id in pending_runs(store):
        what = f"run {run_id}"
        if _busy(store.folder(run_id)):
            findings[run_id] = Finding(what, "ok", "in progress in another process")
            continue
        try:
            pending = load_pending(store, run_id)
        except UserError as error:
            findings[run_id] = from_error(what, error, "warning")
            continue
        why = f": {shorten(failed[run_id].error)}" if run_id in failed else ""
        command = completing(run_id, pending.data, store.root)
        findings[run_id] = Finding(what, "warning", f"trained, but without a record{why}", command)
    return findings


def superseded(store: ResultsStore) -> dict[str, str]:
    """Unfinished runs that differ from a later record in the content of the data alone, which most likely has changed.

    Returns:
        By run id: the run of the record.
    """
    records = store.load_all()[0]
    successors = {}
    for work in store.folders():
        left = None if _busy(work) else unfinished_run(store, work.run_id)
        if left is None or left.question is None:
            continue
        since = (work.state or work.path).stat().st_mtime
        for record in records:
            if record.run_id != left.run_id and _seconds(record.created) >= int(since):
                question = _question(record)
                if question is not None and _but_for_content(question) == _but_for_content(left.question):
                    successors[left.run_id] = record.run_id
    return successors


def orphans(store: ResultsStore, spoken: Collection[str], lost: Mapping[str, str]) -> Iterator[Finding]:
    """Work folders without a record that no command goes on from, with their size and the command that removes them.

    Args:
        spoken: runs that have a row of their own.
        lost: what `superseded` gives.
    """
    empty = []
    for work in store.folders():
        run_id, path = work.run_id, work.path
        if _busy(work) or (run_id not in lost and (run_id in spoken or store.record_files(run_id))):
            continue
        if {*path.iterdir()} <= {work.lock, work.claim}:
            empty.append(path)
        elif run_id in lost:
            since = f"run {lost[run_id]} was finished since on other data of this name"
            detail = f"unfinished, and {since}; {_size(path)}"
            advice = f"{_remove(path)} (unless its data is still there: then {_going_on(store, run_id)})"
            yield Finding(f"work folder {run_id}", "warning", detail, advice)
        elif work.state is None:
            holds = "weights but no record" if work.network.exists() else "no checkpoint, no weights and no record"
            yield Finding(f"work folder {run_id}", "warning", f"{holds}; {_size(path)}", _remove(path))
    if empty:
        names = shorten(", ".join(path.name for path in empty))
        detail = f"{counted(len(empty), 'folder')} without anything but a lock: {names}"
        yield Finding("work folders", "warning", detail, _remove(*empty))


def _busy(work: RunFolder) -> bool:
    return held(work.lock) or held(work.claim)


def _going_on(store: ResultsStore, run_id: str) -> str:
    if store.folder(run_id).trained.is_file():
        return completing(run_id, load_pending(store, run_id).data, store.root)
    return "the command that began it, with --resume"


def _question(record: RunRecord) -> dict[str, Any] | None:
    """What the record's id is the hash of; None for a protocol of another version."""
    try:
        protocol = recorded_protocol(record)
    except UserError:
        return None
    return RunSpec(protocol, record.data, record.assigner, record.options, record.seed).question


def _but_for_content(question: Mapping[str, Any]) -> dict[str, Any]:
    data = question["data"]
    splits = [data[role][0] for role in ("train", "val")]
    return {**question, "data": [data["title"], *splits]}


def _seconds(created: str) -> float:
    return datetime.strptime(created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def _size(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _remove(*folders: Path) -> str:
    return shlex.join(["rm", "-r", *map(str, folders)])
