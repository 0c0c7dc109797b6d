"""The dense, textbook versions that a source checkout keeps beside its tests, where there is one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import harness

MODULE = "tests.bench.dense_reference"


def dense_rules(root: Path | None = None) -> tuple[Mapping[str, Any], str | None]:
    """Dense rules by the name of their assigner (tests/bench/dense_reference.py says what they are).

    Args:
        root: of the checkout; that of this package by default.

    Returns:
        the rules, and in a line why there are none.
    """
    root = root or Path(harness.__file__).resolve().parents[1]
    if not root.joinpath(*MODULE.split(".")).with_suffix(".py").is_file():
        return {}, f"no dense versions at {root / 'tests' / 'bench'} (they are part of a source checkout): no ratios"
    found = sys.modules.get("tests")
    if found is not None and str(root / "tests") not in map(str, getattr(found, "__path__", ())):
        return {}, f"another package named tests is loaded, not {root / 'tests'}: no ratios"
    sys.path.insert(0, str(root))
    try:
        rules: Mapping[str, Any] = import_module(MODULE).RULES
    finally:
        sys.path.remove(str(root))
    return rules, None
