"""The results store: one immutable JSON record per run, and the working files beside them.

    results/runs/<run id>.json     records; a repeat of the same run is <run id>.2.json, .3.json ...
    results/work/<run id>/         checkpoints, traces and weights of the run; not part of the record

The run id is a function of everything that determines the result, so the same question always finds the same name.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

from pydantic import ValidationError

from harness.core.errors import InProgress, UserError, did_you_mean, reason, shorten, writing
from harness.core.files import dump, exclusively, printable, publish_file
from harness.records.folder import RunFolder
from harness.records.migrations import migrate
from harness.records.schema import RunRecord

MOST_LEVELS = 50  # of nesting in a record, which has about six: whoever copies or writes it must not run out of stack

_FILE_NAME = re.compile(r"(?P<run_id>.+?)(?:\.(?P<attempt>[2-9]|[1-9]\d+))?\.json")


class ResultsStore:
    """Records and working files under one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs_dir = root / "runs"

    def folder(self, run_id: str) -> RunFolder:
        """Where the run keeps its checkpoints, traces and weights. It may not exist yet."""
        return RunFolder(self.root / "work" / run_id)

    def folders(self) -> list[RunFolder]:
        """The work folders that there are, by run id."""
        work = self.root / "work"
        return [RunFolder(path) for path in sorted(work.iterdir()) if path.is_dir()] if work.is_dir() else []

    def record_files(self, run_id: str) -> list[Path]:
        """What lies where a record of the run would, readable or not."""
        return [path for name in (f"{run_id}.json", f"{run_id}.*.json") for path in self.runs_dir.glob(name)]

    def save(self, record: RunRecord) -> Path:
        """Write a record that no other ever replaces; a repeat of a run gets the next free number.

        Any number of processes may save at once.

        Returns:
            The file that was written.
        """
        text, run_id = dump(record.as_json()), record.run_id

        def claim(temporary: Path) -> Path:
            for attempt in count(1):
                target = self.runs_dir / (f"{run_id}.json" if attempt == 1 else f"{run_id}.{attempt}.json")
                try:
                    os.link(temporary, target)  # unlike a rename, it fails where the name is taken
                except FileExistsError:
                    continue
                temporary.unlink()
                return target
            raise AssertionError("unreachable: attempts are endless")

        with writing(self.runs_dir / f"{run_id}.json"):
            self.runs_dir.mkdir(parents=True, exist_ok=True)
            return publish_file(self.runs_dir, text, claim)

    def attempts(self, run_id: str) -> dict[Path, RunRecord]:
        """The valid records of one run by their files, in this version's schema."""
        records = {}
        for path in self.record_files(run_id):
            with suppress(UserError):  # `load_all` tells of those that are none
                records[path] = _read(path)
        return records

    def load_all(self) -> tuple[list[RunRecord], list[str]]:
        """All valid records, by run id and attempt, in this version's schema; one line for each file that is none."""
        numbered, problems = [], []
        try:
            paths = sorted(path for path in self.runs_dir.iterdir() if path.suffix == ".json")
        except FileNotFoundError:
            return [], []
        except OSError as error:
            return [], [f"{self.runs_dir} cannot be read: {reason(error)}"]
        for path in paths:
            if path.name.startswith("."):
                continue  # a record being written
            try:
                numbered.append((_attempt(path), _read(path)))
            except UserError as error:
                problems.append(str(error))
        return [record for _, record in sorted(numbered, key=lambda pair: pair[0])], problems

    def find(self, run_id: str) -> RunRecord:
        """The newest record of a run, by its id or an unambiguous beginning of it.

        Raises:
            UserError: for none or several, or a record of that name that cannot be read.
        """
        valid, problems = self.load_all()
        records = {record.run_id: record for record in valid}  # later attempts replace earlier ones
        matches = [known for known in records if known.startswith(run_id)] if run_id else []
        chosen = matches[0] if len(matches) == 1 else run_id
        for problem in problems:
            if run_id and problem.startswith(str(self.runs_dir / chosen)):
                raise UserError(f"{problem}; move it out of {self.runs_dir}")
        if chosen in records:
            return records[chosen]
        if matches:
            raise UserError(f"run {run_id!r} is ambiguous: {', '.join(matches)}; give more of the name")
        raise UserError(
            f"no run {run_id!r} under {self.runs_dir}{did_you_mean(run_id, records)}; `harness ls runs` lists them"
        )

    @contextmanager
    def lock(self, run_id: str) -> Iterator[None]:
        """Hold the run's working directory for this process alone.

        Raises:
            InProgress: if another process holds it.
        """
        path = self.folder(run_id).lock
        with ExitStack() as held:
            try:
                held.enter_context(exclusively(path, wait=False))
            except BlockingIOError as error:
                raise InProgress(
                    f"run {run_id} is in progress in another process ({path} is held); "
                    "wait for it, or use another --results directory"
                ) from error
            yield


def _read(path: Path) -> RunRecord:
    shown = f"{path.parent}{os.sep}{printable(path.name)}"
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device read for ever
            raise UserError(f"{shown} is no readable record: it is a folder or a device; expected a file")
        value = json.loads(path.read_text("utf-8"))
        if _levels(value) > MOST_LEVELS:
            raise UserError(f"{shown} is no readable record: it is nested more than {MOST_LEVELS} levels deep")
        dump(value).encode()  # what no file of the store can hold, NaN or half a character, must reach no reader
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{shown} is no readable record: {printable(shorten(reason(error)))}") from error
    if not isinstance(value, dict):
        raise UserError(f"{shown} is not a record: a record is a JSON object")
    try:
        record = RunRecord.model_validate(migrate(value))
    except UserError as error:
        raise UserError(f"{shown} {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "record"
        raise UserError(f"{shown}: {printable(shorten(where))}: {first['msg']}") from error
    if record.run_id != _attempt(path)[0]:
        raise UserError(f"{shown} holds the record of {record.run_id}; a record must lie under its own name")
    return record


def _levels(value: object) -> int:
    """How deep lists and objects are nested; counted without recursion, which is what deep ones exhaust."""
    levels, layer = -1, [value]
    while layer:
        levels += 1
        layer = [x for v in layer for x in (v.values() if isinstance(v, dict) else v if isinstance(v, list) else ())]
    return levels


def _attempt(path: Path) -> tuple[str, int]:
    match = _FILE_NAME.fullmatch(path.name)
    if match is None:
        raise UserError(f"{path.parent}{os.sep}{printable(path.name)} is no record")
    return match["run_id"], int(match["attempt"] or 1)
