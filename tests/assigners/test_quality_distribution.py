"""IQDet's quality function, its encoder, its loss and the sampler that draws from it."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from assigners.contract import Targets
from assigners.grid import Grid
from assigners.parts import roi_features
from assigners.parts.candidates import box_levels
from assigners.rules.iqdet.box_points import offset_in_half_sides
from assigners.rules.iqdet.encoder import Mixture, QualityDistributionEncoder, quality_loss
from assigners.rules.iqdet.mixture_sampler import component_mass, sample_truncated
from harness.verify.published.oracles import iqdet
from tests.support.strategies import CHANNELS, MixtureParameters, mixtures, scenes

SEEDS = st.integers(0, 2**16)
MANY = 20_000


def mixture_of(*parameters: MixtureParameters) -> Mixture:
    """A `Mixture` of shape [N]."""
    return Mixture(
        mu=torch.tensor(np.stack([p.mu for p in parameters])).float(),
        sigma=torch.tensor(np.stack([p.sigma for p in parameters])).float(),
        log_pi=torch.tensor(np.stack([p.log_pi for p in parameters])).float(),
    )


def single(mu, sigma, pi) -> Mixture:
    """One mixture of shape [1] from lists over components."""
    return Mixture(torch.tensor([mu]).float(), torch.tensor([sigma]).float(), torch.tensor([pi]).float().log())


def places(seed: int, count: int = 25, reach: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-reach, reach, (1, count, 2))).float()


def noise(seed: int, rows: int = 1, count: int = MANY) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng((seed, 2)).uniform(0, 1, (rows, count, 3)))


# ---- the function ---------------------------------------------------------------------------------------------------


@given(mixtures(components=3), SEEDS)
def test_density_equals_the_oracle(p, seed):
    d = places(seed, reach=1.5)
    ours = mixture_of(p).density(d)[0]
    theirs = [iqdet.quality(point, p.mu, p.sigma, p.pi) for point in d[0].tolist()]
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-6)


@given(mixtures(), SEEDS)
def test_bounds_and_peaks(p, seed):
    mixture = mixture_of(p)
    q = mixture.density(places(seed))
    assert (q >= 0).all()
    assert (q <= float(p.pi.sum()) * (1 + 1e-5)).all()
    assert (mixture.density(mixture.mu) >= mixture.log_pi.exp() * (1 - 1e-5)).all()


@given(mixtures(components=3), SEEDS)
def test_components_have_no_order(p, seed):
    d, order = places(seed), [2, 0, 1]
    swapped = MixtureParameters(p.mu[order], p.sigma[order], p.pi[order])
    torch.testing.assert_close(mixture_of(p).density(d), mixture_of(swapped).density(d))


@given(mixtures(), SEEDS)
def test_mirror(p, seed):
    d, mirror = places(seed), np.array([-1.0, 1.0])
    flipped = MixtureParameters(p.mu * mirror, p.sigma, p.pi)
    torch.testing.assert_close(mixture_of(p).density(d), mixture_of(flipped).density(d * torch.tensor([-1.0, 1.0])))


@given(mixtures(), SEEDS)
def test_limits_of_sigma(p, seed):
    d = places(seed)
    endless = mixture_of(MixtureParameters(p.mu, np.full_like(p.sigma, 1e4), p.pi)).density(d)
    torch.testing.assert_close(endless, torch.full_like(endless, float(p.pi.sum())), rtol=1e-4, atol=0)
    away = torch.from_numpy(np.abs(d[0].numpy()[:, None] - p.mu[None]).max(axis=2).min(axis=1) > 1e-2)
    point = mixture_of(MixtureParameters(p.mu, np.full_like(p.sigma, 1e-4), p.pi)).density(d)[0]
    assert (point[away] == 0).all()


def test_no_peak_no_quality_and_no_nan():
    mixture = single([[0.0, 0.0], [0.3, 0.0]], [[0.5, 0.5]] * 2, [0.0, 0.0])
    assert (mixture.density(places(0)) == 0).all()


def test_log_density_is_finite_where_the_density_underflows():
    far = single([[40.0, 0.0]], [[0.05, 0.05]], [0.5])
    log_q = far.log_density(torch.zeros(1, 1, 2))
    assert torch.isfinite(log_q).all()
    assert log_q.item() == pytest.approx(log(0.5) - (40 / 0.05) ** 2 / 2, rel=1e-5)


@given(st.floats(0.1, 2.0), st.floats(0.1, 2.0))
def test_one_centred_component_falls_off_along_each_axis(a, b):
    mixture = single([[0.0, 0.0]], [[a, b]], [0.8])
    steps = torch.linspace(0, 1, 20)
    for axis in (0, 1):
        d = torch.zeros(1, 20, 2)
        d[0, :, axis] = steps
        q = mixture.density(d)[0]
        assert q.argmax() == 0
        assert (q.diff() < 0).all()


@given(SEEDS, st.floats(-50, 50), st.floats(0.25, 8))
def test_place_in_the_box_is_free_of_translation_and_scale(seed, shift, scale):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(10, 60, 2)
    box = np.concatenate((corner, corner + rng.uniform(4, 90, 2)))
    point = rng.uniform(box[:2], box[2:])
    d = offset_in_half_sides(torch.tensor(point), torch.tensor(box))
    np.testing.assert_allclose(d.numpy(), iqdet.box_position(point, box), atol=1e-9)
    moved = offset_in_half_sides(torch.tensor(point * scale + shift), torch.tensor(box * scale + shift))
    torch.testing.assert_close(moved, d, rtol=0, atol=1e-6)
    corners = offset_in_half_sides(torch.tensor(box).view(2, 2), torch.tensor(box))
    torch.testing.assert_close(corners, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).double())


# ---- the loss -------------------------------------------------------------------------------------------------------


@given(st.floats(1e-4, 0.99), st.floats(0, 1))
def test_quality_loss_is_binary_cross_entropy(q, target):
    ours = quality_loss(torch.tensor(q).double().log(), torch.tensor(target).double())
    assert ours.item() == pytest.approx(iqdet.bce(q, target), rel=1e-6, abs=1e-9)


@given(st.floats(0.01, 0.98), st.floats(0.002, 0.998))
def test_quality_loss_is_smallest_where_the_target_is(target, q):
    at = torch.tensor(target).double().log().requires_grad_()
    best = quality_loss(at, torch.tensor(target).double())
    best.backward()
    assert abs(at.grad.item()) < 1e-6
    assert quality_loss(torch.tensor(q).double().log(), torch.tensor(target).double()) >= best - 1e-9


@pytest.mark.parametrize(
    ("log_q", "target", "sign"), [(-300.0, 0.5, -1), (0.0, 0.5, 1), (0.5, 0.9, 1), (-1e-5, 0.2, 1)]
)
def test_quality_loss_pulls_back_from_every_extreme(log_q, target, sign):
    value = torch.tensor(log_q, requires_grad=True)
    loss = quality_loss(value, torch.tensor(target))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(value.grad)
    assert value.grad.sign().item() == sign


# ---- the encoder ----------------------------------------------------------------------------------------------------


def encode(scene, peak: str, components: int = 2, spread: float = 0.0) -> Mixture:
    torch.manual_seed(scene.seed)
    encoder = QualityDistributionEncoder(CHANNELS, components=components, hidden=16, roi=7, peak=peak)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += spread * torch.randn_like(parameter)
    return encoder(scene.predictions().features, scene.grid, scene.targets())


@given(scenes(max_boxes=5), st.sampled_from(["gate", "sigmoid", "softmax"]), st.integers(1, 3))
@settings(max_examples=20)
def test_encoder_shapes_and_ranges(scene, peak, components):
    mixture = encode(scene, peak, components, spread=0.2)
    lead = (scene.targets().num_boxes, scene.grid.num_levels, components)
    assert mixture.mu.shape == (*lead, 2)
    assert mixture.sigma.shape == (*lead, 2)
    assert mixture.log_pi.shape == lead
    assert mixture.mu.dtype == mixture.sigma.dtype == mixture.log_pi.dtype == torch.float32
    assert (mixture.sigma >= 0.05).all()
    assert (mixture.log_pi <= 0).all()
    total = mixture.log_pi.exp().sum(dim=-1)
    if peak == "softmax":
        torch.testing.assert_close(total, torch.ones_like(total))
    if peak == "gate":
        assert (total < 1).all()
        d = torch.rand(*lead[:2], 9, 2) * 2 - 1
        assert (mixture.density(d) <= 1 + 1e-6).all()


@pytest.mark.parametrize(("peak", "start"), [("gate", 0.35), ("softmax", 0.5), ("sigmoid", 0.35)])
@given(scenes(min_boxes=1, max_boxes=2))
@settings(max_examples=3)
def test_encoder_starts_where_it_says(peak, start, scene):
    mixture = encode(scene, peak)
    far = {"atol": 0.25, "rtol": 0}  # the last layers start near zero, not at zero
    torch.testing.assert_close(mixture.log_pi.exp(), torch.full_like(mixture.log_pi, start), **far)
    torch.testing.assert_close(mixture.sigma, torch.full_like(mixture.sigma, 0.5), **far)
    means = torch.tensor([[-0.15, 0.0], [0.15, 0.0]]).expand_as(mixture.mu)
    torch.testing.assert_close(mixture.mu, means, **far)


# ---- the sampler ----------------------------------------------------------------------------------------------------


@given(mixtures(components=3, reach=6.0, sigma=(0.05, 50.0), peak=(1e-30, 0.999)), SEEDS)
def test_draws_lie_strictly_inside(p, seed):
    drawn = sample_truncated(mixture_of(p), noise(seed, count=500))
    assert drawn.shape == (1, 500, 2)
    assert torch.isfinite(drawn).all()
    assert (drawn.abs() < 1).all()


@given(mixtures(), mixtures(), SEEDS)
def test_rows_do_not_see_each_other(p, q, seed):
    u = noise(seed, rows=2, count=40)
    both = sample_truncated(mixture_of(p, q), u)
    for row, mixture in enumerate((p, q)):
        alone = sample_truncated(mixture_of(mixture), u[row : row + 1])[0]
        torch.testing.assert_close(both[row], alone, rtol=0, atol=1e-6)


@given(mixtures(), SEEDS)
@settings(max_examples=12)
def test_histogram_is_the_integral_of_q(p, seed):
    bins = 10
    drawn = sample_truncated(mixture_of(p), noise(seed))[0].numpy()
    share = np.histogram2d(drawn[:, 0], drawn[:, 1], bins=bins, range=[[-1, 1], [-1, 1]])[0] / MANY
    expected = iqdet.bin_probabilities(p.mu, p.sigma, p.pi, bins)
    assert (np.abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / MANY) + 1e-3).all()


@given(mixtures(components=3, reach=1.5), SEEDS)
def test_component_weights_are_their_shares_of_the_integral(p, seed):
    mass = component_mass(mixture_of(p))[0].numpy()
    np.testing.assert_allclose(mass / mass.sum(), iqdet.component_shares(p.mu, p.sigma, p.pi), rtol=1e-4, atol=1e-6)


def test_a_wide_component_is_drawn_more_often_than_its_peak_says():
    mu, sigma, pi = [[-0.6, 0.0], [0.6, 0.0]], [[0.1, 0.1], [0.1, 0.3]], [0.45, 0.45]
    drawn = sample_truncated(single(mu, sigma, pi), noise(1))[0]
    expected = iqdet.component_shares(np.array(mu), np.array(sigma), pi)[1]
    assert 0.74 < expected < 0.76
    assert (drawn[:, 0] > 0).double().mean().item() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("mu", [-2.5, -1.0, 0.0, 0.4, 3.0])
@pytest.mark.parametrize("sigma", [0.1, 0.6, 5.0])
def test_each_axis_is_a_truncated_normal(mu, sigma):
    drawn = sample_truncated(single([[mu, -mu]], [[sigma, sigma]], [0.7]), noise(3))[0].double().numpy()
    for axis, mean in ((0, mu), (1, -mu)):
        theirs = stats.truncnorm((-1 - mean) / sigma, (1 - mean) / sigma, loc=mean, scale=sigma)
        if sigma >= 0.6:
            assert stats.kstest(drawn[:, axis], theirs.cdf).pvalue > 1e-4
        # Draws keep 1e-4 from the border, and beyond 7 deviations the border itself stands for the tail.
        slack = 0.04 if abs(mean) - 1 > 7 * sigma else 2e-4
        assert drawn[:, axis].mean() == pytest.approx(theirs.mean(), abs=5 * theirs.std() / np.sqrt(MANY) + slack)


def test_endless_sigma_is_uniform():
    drawn = sample_truncated(single([[0.3, -2.0]], [[1e3, 1e3]], [0.9]), noise(4))[0].numpy()
    for axis in (0, 1):
        assert stats.kstest(drawn[:, axis], stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_vanishing_sigma_draws_the_means():
    means = torch.tensor([[-0.5, 0.2], [0.7, -0.9]])
    drawn = sample_truncated(single(means.tolist(), [[1e-5, 1e-5]] * 2, [0.3, 0.6]), noise(5, count=500))[0]
    nearest = (drawn[:, None] - means).abs().amax(dim=2).amin(dim=1)
    assert (nearest < 1e-3).all()


@pytest.mark.parametrize(
    ("mu", "sigma"), [((1.3, 0.0), 0.05), ((2.2, 0.0), 0.05), ((-2.5, 0.5), 0.1), ((0.2, -5.0), 0.2)]
)
def test_a_mean_far_outside_draws_at_the_nearest_border(mu, sigma):
    """6, 24, 15 and 20 deviations away."""
    drawn = sample_truncated(single([list(mu)], [[sigma, sigma]], [0.5]), noise(6, count=500))[0]
    for axis, mean in enumerate(mu):
        if abs(mean) > 1:
            assert (drawn[:, axis] * np.sign(mean) > 0.9).all()


def test_nothing_to_draw_from_is_uniform():
    drawn = sample_truncated(single([[0.0, 0.0]] * 2, [[0.1, 0.1]] * 2, [0.0, 0.0]), noise(7))[0].numpy()
    for axis in (0, 1):
        assert stats.kstest(drawn[:, axis], stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_the_extremes_of_the_noise():
    edge = torch.tensor(
        [[[a, b, c] for a in (1e-12, 1 - 1e-12) for b in (1e-12, 1 - 1e-12) for c in (1e-12, 1 - 1e-12)]]
    )
    drawn = sample_truncated(single([[-0.5, 0.0], [0.5, 3.0]], [[0.3, 0.3]] * 2, [0.4, 0.4]), edge.double())
    assert torch.isfinite(drawn).all()
    assert (drawn.abs() < 1).all()


def test_components_without_mass_are_not_drawn():
    drawn = sample_truncated(single([[-0.5, 0.0], [0.5, 0.0]], [[0.01, 0.01]] * 2, [0.5, 0.0]), noise(8, count=2000))[0]
    assert (drawn[:, 0] < 0).all()


@given(scenes(min_boxes=1, max_boxes=3), st.sampled_from(["mu_sigma", "mu"]))
@settings(max_examples=6)
def test_what_is_not_learnt_is_constant(scene, learn):
    encoder = QualityDistributionEncoder(CHANNELS, components=2, hidden=16, roi=7, peak="gate", learn=learn)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    mixture = encoder(scene.predictions().features, scene.grid, scene.targets())
    torch.testing.assert_close(mixture.log_pi.exp(), torch.full_like(mixture.log_pi, 0.5))
    names = {name.partition(".")[0] for name, _ in encoder.named_parameters()}
    assert names == {"layers", "mu", *(["sigma"] if learn == "mu_sigma" else [])}
    if learn == "mu":
        assert (mixture.sigma == 0.5).all()
    else:
        assert mixture.sigma.std() > 0


@given(scenes(min_boxes=1, max_boxes=5), st.sampled_from(["roi_align", "roi_align_mean", "roi_pool"]))
@settings(max_examples=15)
def test_what_is_encoded_in_places_is_as_everywhere(scene, extractor):
    targets, features = scene.targets(), scene.predictions().features
    encoder = QualityDistributionEncoder(CHANNELS, components=2, hidden=16, roi=3, peak="gate", extractor=extractor)
    torch.nn.init.normal_(encoder.mu.weight)
    index = box_levels(scene.grid, targets)
    read = torch.zeros(targets.num_boxes * scene.grid.num_levels, dtype=torch.bool)
    read[index] = True
    read = read.view(targets.num_boxes, -1)

    def encoded(*index):
        mixture = encoder(features, scene.grid, targets, *index)
        total = mixture.mu[read].square().sum() + mixture.log_pi[read].sum() + mixture.sigma[read].sum()
        return mixture, torch.autograd.grad(total, (*features, *encoder.parameters()))

    (whole, gradients), (part, in_part) = encoded(), encoded(index)
    for name in ("mu", "sigma", "log_pi"):
        torch.testing.assert_close(getattr(part, name)[read], getattr(whole, name)[read])
    for one, other in zip(gradients, in_part, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
    if extractor != "roi_pool":
        torch.testing.assert_close(part.mu[~read], encoder.mu.bias.view(-1, 2).expand_as(part.mu[~read]))


def test_crowds_are_encoded_in_parts_with_the_same_result_and_gradient(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    shapes = ((16, 16), (8, 8))
    grid = Grid.build(shapes, (8, 16))
    corner = 90 * torch.rand(7, 2, generator=generator)
    boxes = torch.cat((corner, corner + 5 + 30 * torch.rand(7, 2, generator=generator)), dim=1)
    labels = torch.zeros(7, dtype=torch.long)
    targets = Targets.collate([boxes[:3], boxes[3:]], [labels[:3], labels[3:]], grid, sizes=[(128, 128)] * 2)
    features = tuple(torch.randn(2, 4, h, w, generator=generator, requires_grad=True) for h, w in shapes)
    encoder = QualityDistributionEncoder(4, components=2, hidden=8, roi=3, peak="gate")
    torch.nn.init.normal_(encoder.mu.weight)

    def encoded(chunk):
        monkeypatch.setattr(roi_features, "CHUNK", chunk)
        mixture = encoder(features, grid, targets)
        total = mixture.mu.square().sum() + mixture.log_pi.sum() + mixture.sigma.sum()
        inputs = (*features, *encoder.parameters())
        return mixture, torch.autograd.grad(total, inputs, allow_unused=False)

    (whole, gradients), (parts, in_parts) = encoded(100), encoded(2)
    for name in ("mu", "sigma", "log_pi"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    for one, other in zip(gradients, in_parts, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
