"""Stored commands say where they are shown, not where they were written down."""

from pathlib import Path

import pytest

from harness.core.again import aimed_at


@pytest.mark.parametrize(
    ("stored", "results", "shown"),
    [
        ("harness run -a x --results old --resume", "new", "harness run -a x --resume --results new"),
        ("harness run -a x --results=old --resume", "new", "harness run -a x --resume --results new"),
        ("harness run -a x", "new", "harness run -a x --results new"),
        ("harness run -a x --results old", "results", "harness run -a x"),
        ("harness run -a 'x[k=1]' --results 'my old'", "my new", "harness run -a 'x[k=1]' --results 'my new'"),
        ("harness run -a x --results", "new", "harness run -a x --results new"),
        ("harness run -a 'x", "new", "harness run -a 'x"),
    ],
)
def test_a_command_is_aimed_at_the_results_that_it_is_shown_for(stored, results, shown):
    assert aimed_at(stored, Path(results)) == shown
    assert aimed_at(shown, Path(results)) == shown
