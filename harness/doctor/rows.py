"""What a check finds, and a runner that no check can break."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from harness.core.errors import UserError, reason, shorten

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Row:
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


Check = Callable[[], Iterable[Row]]


def examine(checks: Mapping[str, Check], begin: Callable[[str], object] = lambda what: None) -> list[Row]:
    """The rows of all checks; one that breaks is a row itself.

    Args:
        checks: by what they look at.
        begin: told of each before it starts.
    """
    rows: list[Row] = []
    for what, check in checks.items():
        begin(what)
        try:
            rows.extend(check())
        except UserError as error:
            rows.append(from_error(what, error))
        except Exception as error:  # the other checks must still be heard
            detail = f"this check broke: {type(error).__name__}: {shorten(reason(error))}"
            rows.append(Row(what, "problem", detail, "where an import is at fault, mend that; else report a bug"))
    return rows


def from_error(what: str, error: UserError, state: State = "problem") -> Row:
    """A row in an error's own words."""
    return Row(what, state, *error.parts())
