"""Which published implementation answers for which assigner, and the oracle that knows its conventions.

Peers differ from each other, and from the zoo, in details: ends of ranges, pixels counted with + 1, the order of
ties. These live in slow, obvious NumPy versions, the oracles, of a source checkout's ``tests/oracles``. An oracle set
to a peer's convention must give the peer's answer; set to the zoo's convention it must give the assigner's. Where the
oracles are not at hand, the assigner is compared with the peer directly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import harness
from harness.verify.golden import Case, FloatArray, IntArray

Options = Mapping[str, Any]

PLUS_ONE = {"convention": "inclusive", "plus_one": True}
ORACLES = "tests.oracles"


@dataclass(frozen=True)
class OracleInput:
    """A case as the oracles read it, and the options of the assigner in question."""

    case: Case
    options: Options
    points: Any  # tests.oracles.geometry.Points

    @property
    def boxes(self) -> FloatArray:
        """``[G, 4]``."""
        return self.case.boxes

    @property
    def labels(self) -> list[int]:
        """G of them."""
        return [int(label) for label in self.case.labels]

    @property
    def levels(self) -> int:
        """L."""
        return self.case.grid.num_levels

    @cached_property
    def detections(self) -> tuple[FloatArray, FloatArray]:
        """Logits ``[R, C]`` and decoded boxes ``[R, 4]``; cases without predictions are sorted out before."""
        predictions = self.case.predictions
        if predictions is None:
            raise ValueError(f"case {self.case.name} has no predictions")
        return predictions.logits[0].double().numpy(), predictions.boxes[0].double().numpy()


Imitate = Callable[[ModuleType, OracleInput], NDArray[np.int64]]
"""Ask an oracle, with some convention, for the box of each location."""


@dataclass(frozen=True)
class Oracle:
    """The slow version of an assigner.

    Attributes:
        module: within ``tests/oracles``.
        zoo: it, with the zoo's conventions.
        jitter: px and logits to move the inputs by to see where rounding decides; 0: its arithmetic is exact.
    """

    module: str
    zoo: Imitate
    jitter: float = 0.0


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
    """

    assigner: str
    imitate: Imitate | None = None
    options: Options = field(default_factory=dict)
    hyper: Mapping[str, str] = field(default_factory=dict)
    soft: bool = False
    soft_tolerance: float = 1e-4

    def asked(self, told: Options) -> dict[str, Any]:
        """The assigner's options under which the peer with the hyper-parameters `told` answers for it."""
        return {**self.options, **{option: told[name] for option, name in self.hyper.items() if name in told}}


def _center(**convention: Any) -> Imitate:
    def imitate(oracle: ModuleType, x: OracleInput) -> IntArray:
        answer: IntArray = oracle.assign(
            x.points, x.boxes, radius=x.options["radius"], num_levels=x.levels, **convention
        )
        return answer

    return imitate


def _torchvision(oracle: ModuleType, x: OracleInput) -> IntArray:
    ends = tuple(8.0 * stride for stride in x.case.grid.strides[:-1])
    return _center(convention="strict", blind_area=True, ends=ends)(oracle, x)


def _atss(**convention: Any) -> Imitate:
    def imitate(oracle: ModuleType, x: OracleInput) -> IntArray:
        answer: IntArray = oracle.assign(
            x.points, x.boxes, topk=x.options["topk"], fallback_max=x.options["fallback_max"], **convention
        )
        return answer

    return imitate


def _paa(convention: str) -> Imitate:
    def imitate(oracle: ModuleType, x: OracleInput) -> IntArray:
        logits, predicted = x.detections
        answer: IntArray = oracle.assign(
            x.points, x.boxes, logits, predicted, labels=x.labels, topk=x.options["topk"],
            threshold=x.options["iou"], convention=convention,
        )  # fmt: skip
        return answer

    return imitate


ZOO = {
    "center": Oracle("fcos", lambda oracle, x: _center(labels=x.labels)(oracle, x)),
    "atss": Oracle("atss", lambda oracle, x: _atss(labels=x.labels)(oracle, x), jitter=1e-4),
    "paa": Oracle("paa", _paa("zoo"), jitter=1e-4),
}

PEERS = {
    "mmdet_fcos": Peer("center", _center(convention="inclusive"), hyper={"radius": "center_sample_radius"}),
    "mmdet_fcos_nocs": Peer("center", _center(convention="inclusive"), options={"radius": 0.0}),
    "tv_fcos": Peer("center", _torchvision, hyper={"radius": "center_sampling_radius"}, soft=True),
    "official_fcos": Peer("center", _center(**PLUS_ONE), hyper={"radius": "center_sampling_radius"}, soft=True),
    "mmdet_atss": Peer("atss", _atss(), hyper={"topk": "topk"}),
    "official_atss": Peer("atss", _atss(plus_one=True), hyper={"topk": "topk"}, soft=True),
    "mmdet_paa": Peer("paa", _paa("mmdet"), hyper={"topk": "topk", "iou": "pos_iou_thr"}, soft=True),
    "official_paa": Peer("paa", _paa("official"), hyper={"topk": "topk"}, soft=True),
}


class Oracles:
    """The oracles of this checkout.

    Attributes:
        missing: why there are none, in a line; None where they are at hand.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or Path(harness.__file__).resolve().parents[1]
        self.missing = self._why_not()

    def _why_not(self) -> str | None:
        folder = self.root.joinpath(*ORACLES.split("."))
        if not (folder / "__init__.py").is_file():
            return f"no oracles at {folder} (they are part of a source checkout): the assigner alone meets the peers"
        found = sys.modules.get("tests")
        if found is not None and str(self.root / "tests") not in map(str, getattr(found, "__path__", ())):
            return (
                f"another package named tests is loaded, not {self.root / 'tests'}: the assigner alone meets the peers"
            )
        return None

    def load(self, module: str) -> ModuleType | None:
        """One oracle, or None where this checkout has none of that name."""
        if self.missing is not None or not self.root.joinpath(*ORACLES.split("."), f"{module}.py").is_file():
            return None
        sys.path.insert(0, str(self.root))
        try:
            return import_module(f"{ORACLES}.{module}")
        finally:
            sys.path.remove(str(self.root))

    def points(self, case: Case) -> Any:
        """The locations of a case as oracles take them."""
        geometry = self.load("geometry")
        assert geometry is not None, "an oracle without its geometry"
        return geometry.make_points(case.grid.shapes, case.grid.strides, case.grid.offset)
