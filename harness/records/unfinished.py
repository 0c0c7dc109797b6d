"""Unfinished runs by what their work folders hold, and what makes one of them another run than this."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness.core.errors import UserError, reason, shorten
from harness.core.files import held
from harness.core.text import counted
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, differences
from harness.records.pending import load_pending
from harness.records.store import ResultsStore


@dataclass(frozen=True)
class Unfinished:
    """A run that has a checkpoint, or is trained and waits for its record."""

    run_id: str
    step: int | None  # steps done; None where it is trained
    question: dict[str, Any] | None  # what its id is the hash of; None where an older version took no note of it

    @property
    def stands(self) -> str:
        """How far it is, in words."""
        return "trained, without a record" if self.step is None else f"stopped after {counted(self.step, 'step')}"

    def differs(self, spec: RunSpec) -> str:
        """What makes it another run than that one, in words."""
        if self.question is None:
            return "an older version left it, which took no note of what it is"
        return "; ".join(differences(self.question, spec.question)) or "another version named it"


def unfinished_run(store: ResultsStore, run_id: str) -> Unfinished | None:
    """What lies in a run's work folder; None where nothing can go on from it or it cannot be read."""
    folder = store.folder(run_id)
    if folder.trained.is_file():
        with suppress(UserError):  # its checkpoint speaks then; doctor and whoever completes it say what is wrong
            return Unfinished(run_id, None, load_pending(store, run_id).spec().question)
    with suppress(UserError):  # doctor says so
        if (state := last_state(folder)) is not None:
            return Unfinished(run_id, state["step"], state.get("question"))
    return None


def last_state(folder: RunFolder) -> dict[str, Any] | None:
    """What the last checkpoint says of itself, or the one before where that cannot be read; None for no checkpoint.

    Raises:
        UserError: if what is there cannot be read.
    """
    faults = []
    for path in folder.states:
        try:
            state = json.loads(path.read_text("utf-8"))
            return {**state, "step": int(state["step"])}
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            faults.append(f"{path}: {type(error).__name__}: {shorten(reason(error))}")
    if faults:
        raise UserError(f"its checkpoint cannot be read: {faults[0]}; begin anew with --restart")
    return None


def siblings(store: ResultsStore, spec: RunSpec) -> list[Unfinished]:
    """Unfinished runs of the same assigner, protocol name and seed under other ids, which no process is at."""
    beginning = spec.run_id.rpartition("-")[0]
    folders = [f for f in store.folders() if f.run_id != spec.run_id and not held(f.lock)]
    alike = [f.run_id for f in folders if f.run_id.startswith(f"{beginning}-") and len(f.run_id) == len(spec.run_id)]
    return [run for run_id in alike if (run := unfinished_run(store, run_id)) is not None]


def nearest(runs: list[Unfinished], spec: RunSpec) -> Unfinished | None:
    """The one that differs from a run in the least; those that do not say in what come last."""

    def distance(run: Unfinished) -> tuple[bool, int]:
        return run.question is None, len(differences(run.question, spec.question)) if run.question else 0

    return min(runs, key=distance, default=None)
