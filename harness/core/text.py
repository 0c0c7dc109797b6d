"""How the product words what it says."""

from __future__ import annotations


def counted(count: int, noun: str, ending: str = "s") -> str:
    """``1 run``, ``2 runs``, and with the ending ``es`` ``2 boxes``."""
    return f"{count} {noun}{'' if count == 1 else ending}"
