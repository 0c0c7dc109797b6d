"""Unfinished runs by what their work folders hold, and what makes one of them another run than this.

Nothing heavy is imported: `harness doctor` looks through here too.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.files import held
from harness.core.text import counted
from harness.records.identity import RunSpec, differences
from harness.records.pending import is_pending, load_pending
from harness.records.store import ResultsStore


@dataclass(frozen=True)
class Unfinished:
    """A run that has a checkpoint, or is trained and waits for its record.

    Attributes:
        step: steps done; None where it is trained.
        question: what its id is the hash of; None where an older version took no note of it.
    """

    run_id: str
    step: int | None
    question: dict[str, Any] | None

    @property
    def stands(self) -> str:
        """How far it is, in words."""
        return "trained, without a record" if self.step is None else f"stopped after {counted(self.step, 'step')}"

    def differs(self, spec: RunSpec) -> str:
        """What makes it another run than that one, in words."""
        if self.question is None:
            return "an older version left it, which took no note of what it is"
        return "; ".join(differences(self.question, spec.question)) or "another version named it"


def state_file(work: Path) -> Path | None:
    """The state of the last complete checkpoint in a work folder; None for none."""
    # `.old` is the checkpoint where a kill hit between two renames; the checkpoint's own module needs torch.
    found = (work / name / "state.json" for name in ("checkpoint", "checkpoint.old"))
    return next((path for path in found if path.is_file()), None)


def unfinished_run(store: ResultsStore, run_id: str) -> Unfinished | None:
    """What lies in a run's work folder; None where nothing can go on from it or it cannot be read."""
    if is_pending(store, run_id):
        with suppress(UserError):  # its checkpoint speaks then; doctor and whoever completes it say what is wrong
            return Unfinished(run_id, None, load_pending(store, run_id).spec().question)
    try:
        path = state_file(store.work_dir(run_id))
        if path is None:
            return None
        state = json.loads(path.read_text("utf-8"))
        return Unfinished(run_id, int(state["step"]), state.get("question"))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None  # doctor says so


def siblings(store: ResultsStore, spec: RunSpec) -> list[Unfinished]:
    """Unfinished runs of the same assigner, protocol name and seed under other ids, which no process is at."""
    beginning, _, own = spec.run_id.rpartition("-")
    names = [path.name for path in (store.root / "work").glob(f"{beginning}-{'?' * len(own)}") if path.is_dir()]
    others = [name for name in sorted(names) if name != spec.run_id and not held(store.work_dir(name) / "lock")]
    return [found for name in others if (found := unfinished_run(store, name)) is not None]


def nearest(found: list[Unfinished], spec: RunSpec) -> Unfinished | None:
    """The one that differs from a run in the least; those that do not say in what come last."""

    def distance(run: Unfinished) -> tuple[bool, int]:
        return run.question is None, len(differences(run.question, spec.question)) if run.question else 0

    return min(found, key=distance, default=None)
