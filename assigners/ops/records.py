"""Dataclasses of tensors, such as targets, predictions and samples: one change to all that they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

from torch import Tensor

Record = TypeVar("Record")


def tensors(record: Any) -> dict[str, Any]:
    """The tensors among the fields of a dataclass, by name."""
    return {f.name: value for f in fields(record) if isinstance(value := getattr(record, f.name), Tensor)}


def map_tensors(record: Record, change: Callable[[Tensor], Tensor]) -> Record:
    """The record with `change` applied to every tensor, those of its tuples of tensors included."""
    whole: Any = record
    changed: dict[str, Any] = {name: change(value) for name, value in tensors(whole).items()}
    for f in fields(whole):
        value = getattr(whole, f.name)
        if isinstance(value, tuple) and any(isinstance(each, Tensor) for each in value):
            changed[f.name] = tuple(map(change, value))
    mapped: Record = replace(whole, **changed)
    return mapped
