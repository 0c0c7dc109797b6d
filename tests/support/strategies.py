"""What the tests add to the scenes of `harness.verify`: the oracles' locations, and mixtures."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.verify import scenes as shipped
from harness.verify.published.oracles.geometry import Points, make_points
from harness.verify.scenes import CHANNELS, KINDS, LATTICE, SIDES, STRIDES, draw_box

__all__ = [
    "CHANNELS", "KINDS", "LATTICE", "SIDES", "STRIDES", "MixtureParameters", "Scene", "draw_box", "mixtures", "scenes",
]  # fmt: skip


@dataclass(frozen=True)
class Scene(shipped.VerifyScene):
    """A scene that the oracles can read."""

    @cached_property
    def points(self) -> Points:
        """The oracles' locations."""
        return make_points(self.shapes, self.strides, self.offset)


def scenes(**choices: Any) -> st.SearchStrategy[Scene]:
    """`harness.verify.scenes.scenes`, with the oracles' locations."""

    def readable(scene: shipped.VerifyScene) -> Scene:
        return Scene(**{field.name: getattr(scene, field.name) for field in fields(scene)})

    return shipped.scenes(**choices).map(readable)


@dataclass(frozen=True)
class MixtureParameters:
    """One quality distribution: mu, sigma ``[K, 2]``; pi ``[K]`` with a sum <= 1."""

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    pi: NDArray[np.float64]

    @property
    def log_pi(self) -> NDArray[np.float64]:
        return np.log(self.pi)


@st.composite
def mixtures(
    draw: st.DrawFn,
    *,
    components: int = 2,
    reach: float = 2.0,
    sigma: tuple[float, float] = (0.05, 3.0),
    peak: tuple[float, float] = (0.05, 0.999),
) -> MixtureParameters:
    """Mixtures whose means may lie outside the box."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    share = rng.dirichlet(np.ones(components)) + 1e-3
    return MixtureParameters(
        mu=rng.uniform(-reach, reach, (components, 2)),
        sigma=np.exp(rng.uniform(np.log(sigma[0]), np.log(sigma[1]), (components, 2))),
        pi=share / share.sum() * rng.uniform(*peak),
    )
