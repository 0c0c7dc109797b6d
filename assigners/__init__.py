"""Label assigners: who learns what. This package imports torch alone, and only once something is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from assigners.registry import (
    BadOption,
    Entry,
    NameClash,
    RegistryError,
    UnknownName,
    catalogue,
    create,
    parse_spec,
    resolve_options,
)

if TYPE_CHECKING:
    from assigners.adapters.plain import DenseAssignment, PlainAssignment, assign
    from assigners.contract import Assigner, Assignment, Declares, HeadInfo, Needs, Predictions, Samples, Step, Targets
    from assigners.grid import Grid

_CONTRACT = (
    "Assigner", "Assignment", "Declares", "Grid", "HeadInfo", "Needs", "Predictions", "Samples", "Step", "Targets",
)  # fmt: skip
_PLAIN = ("DenseAssignment", "PlainAssignment", "assign")

__all__ = [
    "Assigner", "Assignment", "BadOption", "Declares", "DenseAssignment", "Entry", "Grid", "HeadInfo", "NameClash",
    "Needs", "PlainAssignment", "Predictions", "RegistryError", "Samples", "Step", "Targets", "UnknownName", "assign",
    "catalogue", "create", "parse_spec", "resolve_options",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # The contract needs torch; the catalogue must answer without it.
    if name in _CONTRACT:
        return getattr(import_module("assigners.contract"), name)
    if name == "Grid":
        return import_module("assigners.grid").Grid
    if name in _PLAIN:
        return getattr(import_module("assigners.adapters.plain"), name)
    raise AttributeError(f"module 'assigners' has no attribute {name!r}")
