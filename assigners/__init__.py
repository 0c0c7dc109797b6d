"""Label assigners: who learns what. This package imports torch alone, and only once something is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from assigners.registry import (
    BadOption,
    CatalogueEntry,
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
    from assigners.parts.negatives import negatives_outside_ignore

# The contract needs torch; the registry must answer without it. What a plugin builds on is here, wherever it lies.
_LAZY = {
    **dict.fromkeys(
        ("Assigner", "Assignment", "Declares", "HeadInfo", "Needs", "Predictions", "Samples", "Step", "Targets"),
        "assigners.contract",
    ),
    **dict.fromkeys(("DenseAssignment", "PlainAssignment", "assign"), "assigners.adapters.plain"),
    "Grid": "assigners.grid",
    "negatives_outside_ignore": "assigners.parts.negatives",
}

__all__ = [
    "Assigner",
    "Assignment",
    "BadOption",
    "CatalogueEntry",
    "Declares",
    "DenseAssignment",
    "Grid",
    "HeadInfo",
    "NameClash",
    "Needs",
    "PlainAssignment",
    "Predictions",
    "RegistryError",
    "Samples",
    "Step",
    "Targets",
    "UnknownName",
    "assign",
    "catalogue",
    "create",
    "negatives_outside_ignore",
    "parse_spec",
    "resolve_options",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'assigners' has no attribute {name!r}")
