"""Oracles: what they are asked, and what they answer for. The rows are in `harness.verify.published.peers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.verify.published import oracles
from harness.verify.published.cases import Case, FloatArray
from harness.verify.published.oracles.geometry import Points, make_points

Options = Mapping[str, Any]


@dataclass(frozen=True)
class OracleInput:
    """A case as the oracles read it, and the options of the assigner in question."""

    case: Case
    options: Options

    @cached_property
    def points(self) -> Points:
        """The locations of the case."""
        grid = self.case.grid
        return make_points(grid.shapes, grid.strides, grid.offset)

    @property
    def boxes(self) -> FloatArray:
        """Ground-truth boxes ``[G, 4]``."""
        return self.case.boxes

    @property
    def labels(self) -> list[int]:
        """Class ids of the G boxes."""
        return [int(label) for label in self.case.labels]

    @property
    def levels(self) -> int:
        """Number L of pyramid levels."""
        return self.case.grid.num_levels

    def map(self, name: str) -> FloatArray:
        """What a detector predicts: ``logits`` of the classes ``[R, C]``, decoded ``boxes`` ``[R, 4]``, ``quality``
        logits ``[R]`` of the auxiliary branch, the peers' objectness or centerness.
        """
        if self.case.predictions is None:  # such cases are sorted out before
            raise ValueError(f"case {self.case.name} has no predictions")
        values: FloatArray = getattr(self.case.predictions, name)[0].double().numpy()
        return values


Imitate = Callable[[ModuleType, OracleInput], NDArray[np.int64]]
"""Ask an oracle, with some convention, for the box of each location."""

Numbers = Callable[[ModuleType, OracleInput, Mapping[str, NDArray[Any]]], Mapping[str, Any]]
"""Ask an oracle for a peer's further arrays, by their names in the file. It sees the peer's arrays only to write its
own in their order: members of an unsorted bag, entries of a sparse list."""

Losses = Callable[[ModuleType, OracleInput], Mapping[str, tuple[float, float]]]
"""Ask an oracle for the terms of `Assignment.losses`: sum and count by name."""


@dataclass(frozen=True)
class Oracle:
    """The slow version of an assigner.

    Attributes:
        module: within ``harness/verify/published/oracles``.
        zoo: it, with the zoo's conventions; None for an assigner that gives no samples.
        jitter: px and logits to move the inputs by to see where rounding decides; 0: its arithmetic is exact.
        losses: the assigner's own loss terms, with the zoo's conventions.
    """

    module: str
    zoo: Imitate | None = None
    jitter: float = 0.0
    losses: Losses | None = None


@dataclass(frozen=True)
class Peer:
    """An implementation and what it answers for.

    Attributes:
        assigner: registered name.
        imitate: the assigner's oracle with this peer's convention; None: no oracle covers it.
        options: of the assigner, where they are fixed and not the defaults.
        hyper: options of the assigner that the file tells, by their names there.
        soft: its soft label is what the assigner calls label.
        soft_tolerance: absolute.
        numbers: the assigner's oracle with this peer's convention, by the names of the peer's arrays.
        losses: names of `numbers` that are held to a relative tolerance; the others are held to an absolute one.
        tolerance: of `numbers`.
    """

    assigner: str
    imitate: Imitate | None = None
    options: Options = field(default_factory=dict)
    hyper: Mapping[str, str] = field(default_factory=dict)
    soft: bool = False
    soft_tolerance: float = 1e-4
    numbers: Numbers | None = None
    losses: frozenset[str] = frozenset()
    tolerance: float = 1e-4

    def asked(self, hyper: Options) -> dict[str, Any]:
        """The assigner's options under which the peer with the hyper-parameters `hyper` answers for it."""
        return {**self.options, **{option: hyper[name] for option, name in self.hyper.items() if name in hyper}}


def load_oracle(module: str) -> ModuleType | None:
    """One oracle, or None where there is none of that name."""
    name = f"{oracles.__name__}.{module}"
    return import_module(name) if find_spec(name) is not None else None
