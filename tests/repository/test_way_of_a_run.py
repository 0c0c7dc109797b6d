"""CONTRIBUTING's "The way of a run" names functions that a run and a step really pass."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from harness.cli import main
from harness.training.trainer import Trainer
from tests.repository.test_contributing import GUIDE, REPOSITORY, SETS

Call = tuple[str, str]


def described(block: int) -> list[Call]:
    """Files and functions of a block of the section: 0 a run, 1 a step."""
    section = GUIDE.partition("\n## The way of a run")[2].partition("\n## ")[0]
    lines = section.split("```")[1::2][block].strip().splitlines()
    return [(file, function) for file, function, *_ in map(str.split, lines)]


@contextmanager
def calls() -> Iterator[dict[Call, None]]:
    """Functions of this repository that are called meanwhile, in the order of their first call."""
    first: dict[Call, None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(REPOSITORY):
            first.setdefault((path.relative_to(REPOSITORY).as_posix(), frame.f_code.co_name))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield first
    finally:
        sys.setprofile(before)


def test_a_run_and_a_step_pass_what_is_described_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step: list[Call] = []
    train = Trainer._step

    def watched(*arguments: object) -> object:
        with calls() as passed:
            sent = train(*arguments)
        step[:] = passed
        return sent

    monkeypatch.setattr(Trainer, "_step", watched)
    words = ["--protocol", "tiny", *SETS, "--results", str(tmp_path), "--threads", "1", "--workers", "0"]
    with calls() as run:
        main(["run", "--assigner", "center", *words], standalone_mode=False)
    for passed, told in ((list(run), described(0)), (step, described(1))):
        assert [call for call in passed if call in told] == told
