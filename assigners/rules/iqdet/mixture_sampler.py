"""Draws from a quality distribution, restricted to its box (IQDet sec. 3.2).

"The value of the distribution as the probability to sample" (sec. 4.2.3): the density of a draw is proportional
to Q inside the box. A component of peak 1 carries mass proportional to sigma_x * sigma_y and to the share of it
that lies in the box; choosing components by pi alone would sample another density.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.rules.iqdet.encoder import Mixture

EDGE = 1 - 1e-4  # draws stay strictly inside the box
TINY_MASS = 1e-12  # of a unit Gaussian inside the box, below which its draw is the nearest box end


def component_mass(mixture: Mixture) -> Tensor:
    """Integral of each component over the box, up to the common factor 2*pi: ``[..., K]`` float64."""
    mu, sigma = mixture.mu.double(), mixture.sigma.double()
    low, high = _mirrored_cdf(mu, sigma)
    inside = (high - low).clamp(min=0).prod(dim=-1)
    return mixture.log_pi.double().exp() * sigma.prod(dim=-1) * inside


def sample_truncated(mixture: Mixture, noise: Tensor) -> Tensor:
    """Draw by inverse distribution functions: a fixed amount of work, no rejection.

    Args:
        mixture: ``[..., K]``.
        noise: ``[..., M, 3]`` float64 uniform in (0, 1): one for the component, one per axis.

    Returns:
        ``[..., M, 2]`` float32, strictly inside (-1, 1).
    """
    mass = component_mass(mixture)
    cumulative = mass.cumsum(dim=-1)
    total = cumulative[..., -1:]
    pick = (noise[..., 0:1] * total.unsqueeze(-2) >= cumulative.unsqueeze(-2)[..., :-1]).sum(dim=-1)  # [..., M]
    index = pick.unsqueeze(-1).expand(*pick.shape, 2)
    mu = mixture.mu.double().gather(-2, index)
    sigma = mixture.sigma.double().gather(-2, index)

    # Mirrored so that the mean is on the positive side: both ends then have small distribution values, which
    # float64 resolves far beyond the point where 1 - Phi would have lost every digit.
    side = torch.where(mu < 0, -1.0, 1.0)
    low, high = _mirrored_cdf(mu, sigma)
    u = low + noise[..., 1:] * (high - low)
    drawn = mu.abs() + sigma * torch.special.ndtri(u)
    drawn = torch.where(high - low > TINY_MASS, drawn, torch.ones_like(drawn))
    # No component reaches into the box: nothing is known about it, so draw uniformly.
    nowhere = (total <= 0).unsqueeze(-1) | ~torch.isfinite(total).unsqueeze(-1)
    drawn = torch.where(nowhere, 2 * noise[..., 1:] - 1, side * drawn)
    return drawn.clamp(-EDGE, EDGE).float()


def sample_uniform(low: Tensor, high: Tensor, noise: Tensor) -> Tensor:
    """Draw uniformly between corners in half sides, broadcast to ``[..., M, 2]``, from the same noise.

    Returns:
        ``[..., M, 2]`` float32, strictly inside (-1, 1).
    """
    return (low + noise[..., 1:] * (high - low)).clamp(-EDGE, EDGE).float()


def _mirrored_cdf(mu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Phi at the two box ends for the component mirrored to ``|mu|``: by erfc, as ndtr is 0 from 8.5 sigma on."""
    low, high = (mu.abs() + 1) / sigma, (mu.abs() - 1) / sigma
    return 0.5 * torch.erfc(low / 2**0.5), 0.5 * torch.erfc(high / 2**0.5)
