"""The papers behind the assigners, from the bibliography that is shipped with them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from assigners.registry import RegistryError, catalogue, find

_ENTRY = re.compile(r"^@\w+\{(?P<key>[^,\s]+),\n.*?^\}$", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^\s*(?P<name>\w+)\s*=\s*\{(?P<value>.*?)\},?$", re.MULTILINE | re.DOTALL)


@cache
def papers() -> dict[str, str]:
    """BibTeX entries by key, as they are written and in that order."""
    text = files("assigners.registry").joinpath("papers.bib").read_text("utf-8")
    return {match["key"]: match[0] for match in _ENTRY.finditer(text)}


def fields(entry: str) -> dict[str, str]:
    """The fields of a BibTeX entry by lower-case name, each on a line of its own or several."""
    return {match["name"].lower(): " ".join(match["value"].split()) for match in _FIELD.finditer(entry)}


def cited(names: Iterable[str] = ()) -> dict[str, str]:
    """The entries of the assigners called `names`, or of all that cite one, each once.

    Raises:
        UnknownName: for a name that no assigner has, with the nearest one.
        RegistryError: for an assigner that names no paper.
    """
    entries = [find(name) for name in names]
    for entry in entries:
        if entry.cite not in papers():
            raise RegistryError(f"assigner {entry.name!r} names no paper in the bibliography")
    wanted = entries or [entry for entry in catalogue() if entry.cite]
    return {entry.cite: papers()[entry.cite] for entry in wanted}
