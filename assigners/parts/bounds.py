"""Options within their range: a fault, a ValueError, names the option, its value and what is allowed.

None stands for a default that is none, and passes.
"""

from __future__ import annotations


def at_least(least: float, /, **options: float | None) -> None:
    """Refuse options below `least`."""
    for name, value in options.items():
        if value is not None and not value >= least:
            raise ValueError(f"{name} is {value}; it must be >= {least}")


def above_zero(**options: float) -> None:
    """Refuse options of 0 or less."""
    for name, value in options.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be > 0")


def within(interval: str, /, **options: float | None) -> None:
    """Refuse options outside an interval in the usual notation, such as ``[0, 1)``."""
    low, high = map(float, interval[1:-1].split(","))
    excluded = [end for bracket, end in zip("()", (low, high), strict=True) if bracket in interval]
    for name, value in options.items():
        if value is not None and (value in excluded or not low <= value <= high):
            raise ValueError(f"{name} is {value}; it must be in {interval}")
