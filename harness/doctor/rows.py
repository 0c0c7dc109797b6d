"""What a check finds, and a runner that no check can break."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from harness.core.errors import UserError, reason, shorten

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        what: was looked at.
        state: a problem stops some run or hides some record; a warning does neither.
        detail: what was found.
        advice: what to do, where there is something to do.
    """

    what: str
    state: State
    detail: str
    advice: str = ""


Check = Callable[[], Iterable[Finding]]


def examine(checks: Mapping[str, Check], begin: Callable[[str], object] = lambda what: None) -> list[Finding]:
    """The rows of all checks; one that breaks is a row itself.

    Args:
        checks: by what they look at.
        begin: told of each before it starts.
    """
    rows: list[Finding] = []
    for what, check in checks.items():
        begin(what)
        try:
            rows.extend(check())
        except UserError as error:
            rows.append(from_error(what, error))
        except Exception as error:  # the other checks must still be heard
            detail = f"this check broke: {type(error).__name__}: {shorten(reason(error))}"
            rows.append(Finding(what, "problem", detail, "where an import is at fault, mend that; else report a bug"))
    return rows


def from_error(what: str, error: UserError, state: State = "problem") -> Finding:
    """A row in an error's own words."""
    return Finding(what, state, *error.parts())
