"""IQDet with other samplers, the rows of its Table 4: the learned quality distribution and L_IQ stay as they are.

``qd`` rounds its draws to the grid ("quantify by rounding off", sec. 4.2.3; A22: to the nearest location).
``uniform`` draws uniformly over the box, rounds, and keeps the best by quality (A23): "QDE without QDS" of Table 1.
"""

from __future__ import annotations

from typing import ClassVar

from assigners.rules.iqdet.iqdet import IQDet


class QuantisedDistribution(IQDet):
    """Draws from the quality distribution, on the grid (registry name ``qd``). Options: those of `IQDet`."""

    quantised = True


class UniformSampling(IQDet):
    """Uniform draws, on the grid (registry name ``uniform``). Options: those of `IQDet`."""

    quantised = True
    uniform: ClassVar[bool] = True
