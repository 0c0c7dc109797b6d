"""The bilinear reader against its oracle, grid_sample and plain indexing."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from assigners.grid import Grid
from assigners.parts.map_reader import MapReader, corners
from harness.verify.published.oracles.iqdet import bilinear_read, corner_weights
from tests.support.rounding import assert_close_in_ulps

SHAPES = ((6, 9), (3, 5), (1, 1))
STRIDES = (8, 16, 32)
GRID = Grid.build(SHAPES, STRIDES)
IMAGES, DEPTH = 2, 3
SEEDS = st.integers(0, 2**16)


def dense(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(IMAGES, GRID.num_locations, DEPTH))).float()


def places(seed: int, count: int = 40, margin: float = 0.5, lattice: int | None = None):
    """Image, level and uv of random places, up to `margin` cells beyond the border."""
    rng = np.random.default_rng((seed, 1))
    level = rng.integers(0, len(SHAPES), count)
    limit = np.array([(w - 1, h - 1) for h, w in SHAPES])[level]
    uv = rng.uniform(-margin, limit + margin)
    if lattice is not None:
        uv = np.clip(np.round(uv * lattice) / lattice, 0, limit)
    image = torch.from_numpy(rng.integers(0, IMAGES, count))
    return image, torch.from_numpy(level), torch.from_numpy(uv).float()


def read(maps: torch.Tensor, image: torch.Tensor, level: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    return MapReader.build(GRID, image, level, uv).read(maps)


def level_map(maps: torch.Tensor, level: int) -> torch.Tensor:
    height, width = SHAPES[level]
    return maps[:, GRID.starts[level] :][:, : height * width].unflatten(1, (height, width))


@given(SEEDS)
def test_equals_the_oracle(seed):
    maps, (image, level, uv) = dense(seed), places(seed)
    values = read(maps, image, level, uv)
    for k in range(len(level)):
        source = level_map(maps, int(level[k]))[image[k]].double().numpy()
        np.testing.assert_allclose(values[k].numpy(), bilinear_read(source, *uv[k].tolist()), atol=1e-5)


@given(SEEDS)
def test_equals_grid_sample(seed):
    maps, (image, level, uv) = dense(seed), places(seed)
    values = read(maps, image, level, uv)
    for k in range(len(level)):
        height, width = SHAPES[int(level[k])]
        source = level_map(maps, int(level[k]))[image[k]].permute(2, 0, 1)[None]
        place = (2 * uv[k] + 1) / torch.tensor([width, height]) - 1
        theirs = F.grid_sample(source, place.view(1, 1, 1, 2), padding_mode="border", align_corners=False)
        torch.testing.assert_close(values[k], theirs.flatten(), rtol=0, atol=1e-5)


@given(SEEDS)
def test_at_integers_it_is_indexing_bit_for_bit(seed):
    maps, (image, level, uv) = dense(seed), places(seed, lattice=1)
    location = GRID.level_start[level] + (uv[:, 1] * GRID.level_width[level] + uv[:, 0]).long()
    assert torch.equal(GRID.location(level, uv), location)
    indexed = maps[image, location]
    assert torch.equal(read(maps, image, level, uv), indexed)
    reader = MapReader.build(GRID, image, level, uv, location)
    assert torch.equal(reader.read(maps), indexed)
    assert torch.equal(reader.read(maps[..., 0]), indexed[:, 0])


@given(SEEDS)
def test_at_integers_a_broken_neighbour_stays_out(seed):
    maps, (image, level, uv) = dense(seed), places(seed, lattice=1)
    location = GRID.level_start[level] + (uv[:, 1] * GRID.level_width[level] + uv[:, 0]).long()
    broken = torch.full_like(maps, torch.inf)
    broken[image, location] = maps[image, location]
    assert torch.equal(read(broken, image, level, uv), maps[image, location])


@given(SEEDS)
def test_weights_are_a_partition_and_touch_the_oracles_cells(seed):
    _, level, uv = places(seed)
    location, weight = corners(GRID, level, uv)
    assert (weight >= 0).all()
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(len(level)))
    for k in range(len(level)):
        height, width = SHAPES[int(level[k])]
        start = GRID.starts[int(level[k])]
        expected = {
            start + row * width + column for (row, column), w in corner_weights(*uv[k].tolist(), height, width).items()
        }
        assert set(location[k][weight[k] > 0].tolist()) == expected
        assert ((location[k] >= start) & (location[k] < start + height * width)).all()


@given(SEEDS)
def test_values_lie_between_their_corners(seed):
    maps, (image, level, uv) = dense(seed), places(seed)
    values = read(maps, image, level, uv)
    location, _ = corners(GRID, level, uv)
    around = maps[image[:, None], location]
    assert (values <= around.amax(dim=1) + 1e-5).all()
    assert (values >= around.amin(dim=1) - 1e-5).all()


@given(SEEDS, st.floats(-5, 5))
def test_a_constant_map_stays_constant(seed, value):
    image, level, uv = places(seed)
    maps = torch.full((IMAGES, GRID.num_locations), value)
    torch.testing.assert_close(read(maps, image, level, uv), torch.full((len(level),), value))


@given(SEEDS)
def test_pixel_coordinates_reproduce_themselves_within_the_map(seed):
    """So that decoding after the interpolation equals interpolating the decoded boxes."""
    image, level, uv = places(seed, margin=0.0)
    maps = GRID.points.expand(IMAGES, -1, -1)
    torch.testing.assert_close(read(maps, image, level, uv), GRID.pixels(level, uv), rtol=0, atol=1e-4)


@given(SEEDS)
def test_decoding_commutes_with_reading(seed):
    image, level, uv = places(seed, margin=0.0)
    distances = dense(seed)[..., :2].abs() * 50
    corner = read(GRID.points - distances, image, level, uv)
    torch.testing.assert_close(corner, GRID.pixels(level, uv) - read(distances, image, level, uv), rtol=0, atol=1e-4)


@given(SEEDS)
def test_gradient_is_shared_by_at_most_four_cells(seed):
    maps, (image, level, uv) = dense(seed).requires_grad_(), places(seed)
    read(maps, image, level, uv).sum().backward()
    torch.testing.assert_close(maps.grad.sum(dim=(0, 1)), torch.full((DEPTH,), float(len(level))), rtol=1e-5, atol=0)
    maps.grad = None
    read(maps, image[:1], level[:1], uv[:1]).sum().backward()
    assert int((maps.grad[..., 0] != 0).sum()) <= 4


@given(SEEDS, st.booleans())
def test_one_channel_equals_reading_all(seed, on_grid):
    maps, (image, level, uv) = dense(seed), places(seed, lattice=1 if on_grid else None)
    channel = torch.from_numpy(np.random.default_rng(seed).integers(0, DEPTH, len(level)))
    reader = MapReader.build(GRID, image, level, uv, GRID.location(level, uv) if on_grid else None)
    own = reader.read_channel(maps, channel)
    # Sums of four, of either sign.
    assert_close_in_ulps(own, reader.read(maps).gather(1, channel[:, None])[:, 0], size=1.0)


@given(SEEDS, st.booleans())
def test_cells_without_weight_and_points_that_do_not_exist_read_nothing(seed, on_grid):
    image, level, uv = places(seed, lattice=1 if on_grid else 2)
    ok = torch.from_numpy(np.random.default_rng(seed).random(len(level)) < 0.5)
    reader = MapReader.build(GRID, image, level, uv, GRID.location(level, uv) if on_grid else None)
    for k, reads in enumerate(reader.reads(ok)):
        place = corner_weights(*uv[k].tolist(), *SHAPES[int(level[k])])
        cells = {(int(image[k]), GRID.starts[int(level[k])] + r * SHAPES[int(level[k])][1] + c) for r, c in place}
        found = reader.cell[k][reads]
        assert {divmod(cell, GRID.num_locations) for cell in found.tolist()} == (cells if ok[k] else set())


def test_a_location_and_its_map_coordinates_name_one_place():
    everywhere = torch.arange(GRID.num_locations)
    level, uv = GRID.map_coordinates(everywhere)
    assert uv.dtype == torch.float32
    assert torch.equal(GRID.location(level, uv), everywhere)
    assert torch.equal(GRID.pixels(level, uv), GRID.points)
    rows = [(row, column) for height, width in SHAPES for row in range(height) for column in range(width)]
    assert uv.flip(1).tolist() == [list(place) for place in rows]
