"""Options within their range."""

import re

import pytest

from assigners.parts.bounds import above_zero, at_least, within


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1]", (0, 0.5, 1, None), (-1e-9, 1.01, float("nan"), float("inf"))),
        ("(0, 1]", (1e-9, 1), (0, -1, 1.01)),
        ("[0, 1)", (0, 0.99), (1, -0.1)),
        ("(0.5, 20)", (0.51, 19.9), (0.5, 20, 0, 21)),
    ],
)
def test_an_interval_has_the_ends_that_its_brackets_say(interval, inside, outside):
    for value in inside:
        within(interval, share=0.6, width=value)
    for value in outside:
        with pytest.raises(ValueError, match=re.escape(f"width is {value}; it must be in {interval}")):
            within(interval, share=0.6, width=value)


def test_bounds_from_below():
    at_least(1, topk=1, hidden=None)
    above_zero(radius=1e-9)
    with pytest.raises(ValueError, match="least is 0; it must be >= 1"):
        at_least(1, topk=2, least=0)
    with pytest.raises(ValueError, match="radius is 0; it must be > 0"):
        above_zero(sigma=1.0, radius=0)
