"""`shapes`: a procedural detection set, an instrument for comparing label assigners.

Ten classes of plain outline, half of which have their mass off the box centre or leave the centre empty, in random
colour, texture, aspect and orientation, partly hiding one another before a cluttered ground. Every image is a pure
function of (set seed, split, index), by integer arithmetic alone: bit-identical on every machine, nothing to download.

Each object carries two numbers of its full, unoccluded mask:

    eccentricity: distance of the mask's centroid from the box centre, each axis in units of half the box side
    centre_fill:  covered share of the box's middle quarter (the box shrunk to half its sides about its centre)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.core.errors import UserError
from harness.data.base import Annotations, ImageSet, Oddities
from harness.data.hashing import Draws, hash_range
from harness.data.shapes.raster import SHAPES, Ints, Mask, draw_mask, extent, smooth_noise
from harness.data.sources import Opening

VERSION = 1  # part of every checksum: raise it with any change that moves a pixel or a box
SPLITS = {"train": 1, "val": 2}
COUNT = {"train": 1000, "val": 200}  # images where the protocol names none
OBJECTS = (1, 6)  # per image
TRIES = 4  # placements per object before it is given up
VISIBLE = 35  # percent of an object that must stay visible
INSIDE = 65  # percent of an object that must lie inside the image
GROUND = (16, 104)  # range of each channel: dark, so that what is learnt is form and not figure against ground
OBJECT = (120, 239)  # the same for objects; their colour says nothing of their class
CLUTTER = (16, 239)
CACHE_LIMIT = 512 * 2**20  # bytes of rendered images kept in memory
SMALLEST_SIDE = 64  # px; below it there is no room for objects

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Piece:
    """One placed object: class id, top left corner, tight mask inside the image, fill."""

    label: int
    x: int
    y: int
    mask: Mask
    colour: tuple[int, int, int]
    stripe: tuple[int, int, int, int]  # x and y slope, period in px, amplitude


@dataclass(frozen=True)
class Scene:
    """The layout of one image: pieces from the rearmost to the foremost, and who owns each pixel (-1: the ground)."""

    pieces: tuple[Piece, ...]
    owner: npt.NDArray[np.int8]
    ground: tuple[int, int, int]


def side_range(image_side: int) -> tuple[int, int]:
    """Longer side of the smallest and the largest object, in pixels: 20-100 at 128 px, 24-700 at 1024 px."""
    most = min(100 + (image_side - 128) * 600 // 896, image_side * 4 // 5)
    return min(max(20 + (image_side - 128) * 4 // 896, 8), most // 2), most


def compose(draws: Draws, image_side: int) -> Scene:
    """Place objects one over the other; a placement that would hide an earlier object is drawn again."""
    owner = np.full((image_side, image_side), -1, dtype=np.int8)
    ground = _colour(draws, GROUND)
    pieces: list[Piece] = []
    visible: list[int] = []
    for _ in range(draws.between(*OBJECTS)):
        for _ in range(TRIES):
            piece = _place(draws, image_side)
            if piece is None:
                continue
            height, width = piece.mask.shape
            window = owner[piece.y : piece.y + height, piece.x : piece.x + width]
            hidden = np.bincount(window[piece.mask] + 1, minlength=len(pieces) + 1)[1:]
            if any(100 * (v - h) < VISIBLE * p.mask.sum() for v, h, p in zip(visible, hidden, pieces, strict=True)):
                continue
            window[piece.mask] = len(pieces)
            visible = [*(v - int(h) for v, h in zip(visible, hidden, strict=True)), int(piece.mask.sum())]
            pieces.append(piece)
            break
    return Scene(tuple(pieces), owner, ground)


def _place(draws: Draws, image_side: int) -> Piece | None:
    label = draws.between(0, len(SHAPES) - 1)
    full = draw_mask(SHAPES[label], _log_uniform(draws, *side_range(image_side)), draws)
    height, width = full.shape
    x = draws.between(-(width // 5), image_side - width + width // 5)
    y = draws.between(-(height // 5), image_side - height + height // 5)
    seen = full[max(-y, 0) : image_side - y, max(-x, 0) : image_side - x]
    if 100 * int(seen.sum()) < INSIDE * int(full.sum()):
        return None
    x1, y1, x2, y2 = extent(seen)
    colour = _colour(draws, OBJECT)
    slope_x, slope_y = draws.between(-2, 2), draws.between(-2, 2)
    stripe = (slope_x, slope_y, draws.between(3, max(image_side // 16, 4)), draws.between(0, 16))
    return Piece(label, max(x, 0) + x1, max(y, 0) + y1, seen[y1:y2, x1:x2], colour, stripe)


def _log_uniform(draws: Draws, low: int, high: int) -> int:
    # 2**t is drawn as an octave and a share within it, linear inside the octave: integers, within 6 % of log-uniform.
    ratio = high * 4096 // low
    octaves = (ratio // 4096).bit_length() - 1
    last = (ratio >> octaves) - 4096  # share of the last, incomplete octave
    octave, share = divmod(draws.between(0, octaves * 4096 + last), 4096)
    return (low * (4096 + share) << octave) // 4096


def _colour(draws: Draws, channel: tuple[int, int]) -> tuple[int, int, int]:
    return draws.between(*channel), draws.between(*channel), draws.between(*channel)


def paint(scene: Scene, draws: Draws, image_side: int) -> Pixels:
    """Render ``[S, S, 3]`` uint8: textured ground, clutter, objects, pixel noise."""
    image = smooth_noise(draws.key(), image_side, image_side, 6, 3) * draws.between(20, 60) >> 8
    image += np.array(scene.ground, dtype=np.int32) - 24
    _clutter(image, draws, image_side)
    for index, piece in enumerate(scene.pieces):
        height, width = piece.mask.shape
        area = np.s_[piece.y : piece.y + height, piece.x : piece.x + width]
        slope_x, slope_y, period, amplitude = piece.stripe
        phase = np.arange(width, dtype=np.int32) * slope_x + np.arange(height, dtype=np.int32)[:, None] * slope_y
        fill = np.array(piece.colour, dtype=np.int32) + (phase // period % 2 * amplitude)[:, :, None]
        image[area] = np.where((scene.owner[area] == index)[:, :, None], fill, image[area])
    words = hash_range(draws.key(), image_side * image_side).astype("<u4", copy=False)  # one byte order everywhere
    noise = words.view(np.uint8).reshape(image_side, image_side, 4)
    image += (noise[:, :, :3].astype(np.int32) - 128) * draws.between(4, 16) >> 7
    return np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))


def _clutter(image: Ints, draws: Draws, side: int) -> None:
    """Specks, lines and ragged blobs: structure that belongs to no class."""
    for _ in range(draws.between(4, 20)):
        x, y, size = draws.between(0, side - 1), draws.between(0, side - 1), draws.between(1, side_range(side)[0] // 6)
        image[y : y + size, x : x + size] = _colour(draws, CLUTTER)
    for _ in range(draws.between(0, 4)):
        ends = [draws.between(0, side - 2) for _ in range(4)]
        steps = np.arange(side, dtype=np.int32)
        columns = ends[0] + (ends[2] - ends[0]) * steps // side
        rows = ends[1] + (ends[3] - ends[1]) * steps // side
        colour = np.array(_colour(draws, CLUTTER), dtype=np.int32)
        for shift in range(1 + side // 256):
            image[rows, np.minimum(columns + shift, side - 1)] = colour
    for _ in range(draws.between(0, 4)):
        width, height = draws.between(side // 16, side // 5), draws.between(side // 16, side // 5)
        x, y = draws.between(0, side - width), draws.between(0, side - height)
        u = (2 * np.arange(width, dtype=np.int32) + 1 - width) * 256 // width
        v = (2 * np.arange(height, dtype=np.int32) + 1 - height) * 256 // height
        ragged = smooth_noise(draws.key(), height, width, 5, 1)[:, :, 0]
        blob = (u * u)[None, :] + (v * v)[:, None] < ragged * 256
        window = image[y : y + height, x : x + width]
        shade = np.array([draws.between(-70, 70) for _ in range(3)], dtype=np.int32)
        window[blob] += shade


def describe(pieces: tuple[Piece, ...]) -> Annotations:
    """Boxes, labels and the two mask numbers of placed objects."""
    boxes = [(p.x, p.y, p.x + p.mask.shape[1], p.y + p.mask.shape[0]) for p in pieces]
    numbers = np.array([_mass(p.mask) for p in pieces], dtype=np.float32).reshape(-1, 2)
    return Annotations.plain(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array([p.label for p in pieces], dtype=np.int64),
        attributes={"eccentricity": numbers[:, 0].copy(), "centre_fill": numbers[:, 1].copy()},
    )


def _mass(mask: Mask) -> tuple[float, float]:
    height, width = mask.shape
    x, y = 2 * np.arange(width) + 1 - width, 2 * np.arange(height) + 1 - height  # twice the offset from the box centre
    count = int(mask.sum())
    off_x = int((mask.sum(axis=0) * x).sum()) / (count * width)
    off_y = int((mask.sum(axis=1) * y).sum()) / (count * height)
    middle = mask[2 * abs(y) <= height][:, 2 * abs(x) <= width]
    return float(np.sqrt(off_x * off_x + off_y * off_y)), int(middle.sum()) / middle.size


def open_shapes(asked: Opening) -> ShapesSet:
    """A split as ``--data shapes`` asks for it."""
    return ShapesSet(asked.limit or COUNT[asked.role], asked.data.short_edge, asked.split or asked.role)


class ShapesSet(ImageSet):
    """A split of `shapes`, "train" or "val", two unrelated streams: `count` square images of `side` pixels.

    Args:
        seed: of the set; not the seed of a training run.

    Raises:
        UserError: for an unknown split or a side without room for objects.
    """

    def __init__(self, count: int, side: int, split: str, seed: int = 0) -> None:
        if split not in SPLITS:
            raise UserError(f"shapes has no split {split!r}; it has {' and '.join(SPLITS)}")
        if side < SMALLEST_SIDE:
            raise UserError(f"shapes needs data.short_edge of at least {SMALLEST_SIDE} px, got {side}")
        self.title, self.split = "shapes", split
        self.classes = tuple(shape.name for shape in SHAPES)
        self.warnings = Oddities()
        self._count, self._side, self._seed = count, side, seed
        self._cache: dict[int, Pixels] | None = {} if count * side * side * 3 < CACHE_LIMIT else None
        self._annotations: dict[int, Annotations] = {}

    def __len__(self) -> int:
        return self._count

    def image_id(self, index: int) -> int:
        return index

    def name(self, index: int) -> str:
        return f"shapes/{index:06d}"

    def size(self, index: int) -> tuple[int, int]:
        return self._side, self._side

    def annotations(self, index: int) -> Annotations:
        if index not in self._annotations:
            self._annotations[index] = describe(self._scene(index).pieces)
        return self._annotations[index]

    def load(self, index: int) -> Pixels:
        cached = self._cache.get(index) if self._cache is not None else None
        if cached is not None:
            return cached
        scene = self._scene(index)
        image = paint(scene, Draws(*self._words(index), 2), self._side)
        self._annotations.setdefault(index, describe(scene.pieces))
        if self._cache is not None:
            self._cache[index] = image
        return image

    def checksum(self) -> str:
        text = f"shapes version {VERSION} seed {self._seed} split {self.split} count {self._count} side {self._side}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _words(self, index: int) -> tuple[int, ...]:
        if not 0 <= index < self._count:
            raise IndexError(f"image {index} of a set of {self._count}")
        return VERSION, self._seed, SPLITS[self.split], index, self._side

    def _scene(self, index: int) -> Scene:
        return compose(Draws(*self._words(index), 1), self._side)
