"""Scenes of one image, made by hand, at random or recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from assigners.contract import Predictions
from tests.support.strategies import Scene, draw_box
from tests.verify import test_oracles as golden

HARD = ["tiny", "nested", "duplicate", "flat", "border"]  # kinds of `hard_images`


def one_image(boxes, labels=None, size=(256, 256)) -> Scene:
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Scene(
        boxes=(boxes,),
        labels=(np.arange(len(boxes)) % 5 if labels is None else np.array(labels),),
        sizes=(size,),
        image_ids=(1,),
        canvas=tuple(-(-side // 128) * 128 for side in size),
        seed=0,
    )


def hard_images(kind: str, count: int) -> Iterator[Scene]:
    """Images of a plain box and nine of one hard kind."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        drawn: list[np.ndarray] = [draw_box("plain", 256, 256, [], rng)]
        for _ in range(9):
            drawn.append(draw_box(kind, 256, 256, drawn, rng))
        yield replace(one_image(drawn, labels=rng.integers(0, 5, 10)), seed=seed, image_ids=(seed,))


def image_of_classes(classes: int, seed: int = 0, offset: float = 0.5) -> Scene:
    """A small image of four boxes for a detector of so many classes."""
    rng = np.random.default_rng((classes, seed))
    boxes = [draw_box("plain", 128, 128, [], rng) for _ in range(4)]
    scene = one_image(boxes, labels=rng.integers(0, classes, 4), size=(128, 128))
    return replace(scene, num_classes=classes, seed=seed, offset=offset)


def golden_image(name: str) -> tuple[Scene, Predictions, golden.Case]:
    """A recorded image with predictions like those of a trained detector; boxes are cut to it."""
    case = golden.load(name)
    height, width = case.arrays["image_hw"].tolist()
    boxes = np.clip(case.boxes, 0, [width, height, width, height]).astype(np.float32)
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
    scene = replace(
        one_image(boxes[keep], labels=np.array(case.labels)[keep]),
        sizes=((height, width),),
        canvas=(height, width),
        offset=float(case.arrays["offset"]),
        num_classes=case.logits.shape[1],
    )
    decoded = torch.from_numpy(case.predicted).float()
    points = scene.grid.points
    predictions = Predictions(
        logits=torch.from_numpy(case.logits).float()[None],
        quality=torch.zeros(1, len(points)),
        distances=torch.cat((points - decoded[:, :2], decoded[:, 2:] - points), dim=1)[None],
        boxes=decoded[None],
    )
    return scene, predictions, case
