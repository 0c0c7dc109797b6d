"""Unfinished runs by what their work folders hold, and what makes one of them another run than this.

Nothing heavy is imported: `harness doctor` looks through here too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UserError, shorten
from harness.core.files import held
from harness.core.text import counted
from harness.records.pending import is_pending, load_pending
from harness.records.store import ResultsStore, RunSpec

ROLES = {"train": "training", "val": "validation"}

_ABSENT = "absent"


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


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """What makes one run another: a phrase for each part of what their ids are the hash of.

    Args:
        theirs, mine: as `harness.records.store.RunSpec.question` gives them.
    """
    found = []
    data, here = theirs["data"], mine["data"]
    if data["title"] != here["title"]:
        found.append(f"data set {data['title']}, not {here['title']}")
    for role, name in ROLES.items():
        (split, checksum), (own_split, own_checksum) = data[role], here[role]
        if split != own_split:
            found.append(f"{name} split {split}, not {own_split}")
        elif checksum != own_checksum:
            found.append(f"other images or annotations in the {name} split")
    old, new = ({**_keys(question["protocol"]), **question["options"]} for question in (theirs, mine))
    for key in sorted({*old, *new}):
        value, own = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if value != own:
            found.append(f"{key} {shorten(str(value), 60)}, not {shorten(str(own), 60)}")
    return found


def trained_alike(theirs: Mapping[str, Any] | None, mine: Mapping[str, Any]) -> bool:
    """Whether two runs differ at most in what the validation split, of the same name, holds."""
    if theirs is None or theirs["data"]["val"][0] != mine["data"]["val"][0]:
        return False
    return without_validation(theirs) == without_validation(mine)


def without_validation(question: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the weights; and how they are evaluated, but for the images."""
    data = {key: value for key, value in question["data"].items() if key != "val"}
    return {**question, "data": data}


def _keys(protocol: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, values in protocol.items() for key, value in values.items()}
