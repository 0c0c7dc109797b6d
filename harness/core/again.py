"""Stored commands, aimed at the place where they are shown: a results folder may have been moved since."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path

DEFAULT_RESULTS = Path("results")


def aimed_at(command: str, results: Path) -> str:
    """A ``harness`` command line as it must be typed here and now to work on a results directory.

    Args:
        command: from a checkpoint, a record or a failure; a line that no shell would read stays as it is.
        results: the directory that it is shown for, in place of whichever the line names.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    others = (word for before, word in pairwise(["", *words]) if "--results" not in (before, word))
    kept = [word for word in others if not word.startswith("--results=")]
    elsewhere = ["--results", str(results)] if results != DEFAULT_RESULTS else []
    return shlex.join([*kept, *elsewhere])
