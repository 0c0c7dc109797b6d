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
_LAZY = ("assigners.contract", "assigners.parts.negatives", "assigners.adapters.plain")

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
    for module in map(import_module, _LAZY if name in __all__ else ()):
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module 'assigners' has no attribute {name!r}")
