"""Where results go, and what lies there."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.core.again import aimed_at
from harness.core.errors import UserError, reason, shorten
from harness.core.files import held
from harness.doctor import leftovers
from harness.doctor.rows import Finding, State, from_error
from harness.records.failures import Failure, load_failures
from harness.records.store import ResultsStore
from harness.records.unfinished import last_state

GIB = 2**30
LITTLE_DISK = 2 * GIB  # a ResNet-50 and its optimiser's state, twice while a checkpoint takes another's place
NO_DISK = 64 * 2**20  # not even the default run


def disk(results: Path) -> Iterator[Finding]:
    """Room where results go."""
    free = shutil.disk_usage(_nearest_folder(results)).free
    state: State = "problem" if free < NO_DISK else "warning" if free < LITTLE_DISK else "ok"
    advice = "" if state == "ok" else "make room, or name another --results directory"
    yield Finding("disk", state, f"{free / GIB:.1f} GiB free for {results}", advice)


def writable(results: Path) -> Iterator[Finding]:
    """Whether a record can be written: that takes a file, a second name for it and a lock, which some network
    folders lack. Leaves nothing behind, and makes no results directory where there is none.

    Raises:
        UserError: where the directory is a file.
    """
    if results.exists() and not results.is_dir():
        raise UserError(f"{results} is not a folder; name another --results directory")
    folder = _nearest_folder(results)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as temporary:
            file = Path(temporary, "file")
            file.write_text("a record")
            os.link(file, Path(temporary, "name"))
            with file.open() as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        detail = f"{folder} does not take files, hard links and locks: {reason(error)}"
        yield Finding("results", "problem", detail, "unlock it, or name another --results directory")
    else:
        detail = f"{results} takes records" if results.is_dir() else f"{results} will be made in {folder}"
        yield Finding("results", "ok", detail)


def _nearest_folder(path: Path) -> Path:
    """The folder, or the next one above it that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def records(results: Path) -> Iterator[Finding]:
    """Valid records, files that are none, what killed writers left, and the leaderboard."""
    store = ResultsStore(results)
    valid, problems = store.load_all()
    yield Finding("records", "ok", f"{len(valid)} valid in {store.runs_dir}")
    for problem in problems:
        yield Finding("record", "problem", problem, f"move it out of {store.runs_dir}; readers leave it out")
    half = sorted(path.name for path in store.runs_dir.glob(".*.tmp"))
    if half:
        detail = f"{len(half)} unfinished files, of writers at work or killed: {shorten(', '.join(half))}"
        yield Finding("records", "warning", detail, f"while nothing runs: rm {shlex.quote(str(store.runs_dir))}/.*.tmp")
    if valid and not problems:
        from harness.records.leaderboard import check_leaderboard

        try:
            check_leaderboard(store)
        except UserError as error:
            command = aimed_at("harness leaderboard", results)
            yield Finding("leaderboard", "warning", from_error("leaderboard", error).detail, command)
        else:
            yield Finding("leaderboard", "ok", f"agrees with {len(valid)} records")


def unfinished(results: Path) -> Iterator[Finding]:
    """Runs that were interrupted, wait for their record or failed, with the command that goes on or tries again; and
    work folders that no run needs."""
    store = ResultsStore(results)
    failures, problems = load_failures(store)
    failed = {failure.run_id: failure for failure in failures}
    waiting, lost = leftovers.waiting(store, failed), leftovers.superseded(store)
    rows = [
        *_interrupted(store, {*failed, *waiting, *lost}),
        *(row for run_id, row in waiting.items() if run_id not in lost),
        *(_failed(failure, store) for failure in failures if failure.run_id not in {*waiting, *lost}),
        *leftovers.orphans(store, {*failed, *waiting}, lost),
        *(Finding("failed run", "warning", problem, f"move it out of {store.root / 'failed'}") for problem in problems),
    ]
    yield from rows or [Finding("unfinished runs", "ok", "none")]


def _interrupted(store: ResultsStore, failed: set[str]) -> Iterator[Finding]:
    for folder in store.folders():
        if folder.state is None or folder.run_id in failed:
            continue
        if held(folder.lock):
            yield Finding(f"run {folder.run_id}", "ok", "in progress in another process")
            continue
        try:
            state = last_state(folder) or {}
        except UserError as error:
            yield from_error(f"run {folder.run_id}", error, "warning")
            continue
        # The folder may have been moved since the checkpoint was written.
        command = str(state.get("command") or "")
        advice = aimed_at(command, store.root) if command else "the command that began it, with --resume"
        yield Finding(f"run {folder.run_id}", "warning", f"interrupted after step {state['step']}", advice)


def _failed(failure: Failure, store: ResultsStore) -> Finding:
    when = "before the first step" if failure.step is None else f"after step {failure.step}"
    again = aimed_at(failure.command, store.root)
    return Finding(f"run {failure.run_id}", "warning", f"failed {when}: {shorten(failure.error)}", again)
