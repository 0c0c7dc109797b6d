"""The contact sheet of a split: images with their boxes as they will be learnt. The eye finds what no rule does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from harness.data.base import ImageSet
from harness.data.transforms import make_sample
from harness.drawing.images import SKY, LegendEntry, Panel, colour_of, sheet
from harness.protocol.protocol import DataSection

THUMBNAIL = 320  # px of an image's longer side on the sheet
PER_ROW = 6


def draw(images: ImageSet, chosen: Sequence[int], section: DataSection, title: str) -> Image.Image:
    """Compose the sheet of readable images; sizes and roles are those of the protocol, nothing is augmented."""
    panels = [_panel(images, index, section) for index in chosen]
    legend = [
        LegendEntry(
            lambda pen, x, y: pen.rectangle((x - 10, y - 8, x + 10, y + 8), SKY, 2.0), "learnt, one colour a class"
        ),
        LegendEntry(lambda pen, x, y: pen.hatch((x - 12, y - 8, x + 12, y + 8)), "a region without negatives"),
    ]
    return sheet([panels[i : i + PER_ROW] for i in range(0, len(panels), PER_ROW)], title, legend)


def _panel(images: ImageSet, index: int, section: DataSection) -> Panel:
    sample = make_sample(images.load(index), images.annotations(index), section, None)
    pixels: npt.NDArray[np.uint8] = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
    factor = min(1.0, THUMBNAIL / max(pixels.shape[:2]))
    if factor < 1:
        size = [max(1, round(side * factor)) for side in (pixels.shape[1], pixels.shape[0])]
        pixels = np.asarray(Image.fromarray(pixels).resize((size[0], size[1])))
    name = images.name(index).rpartition("/")[2]
    panel = Panel(pixels, title=name if len(name) < 36 else f"...{name[-32:]}", side=THUMBNAIL)
    for region in (sample.ignore * factor).tolist():
        panel.hatch(region)
    # The largest first, so that small ones lie on top.
    corners = sample.boxes.double()
    order = (corners[:, 2:] - corners[:, :2]).prod(dim=1).argsort(descending=True, stable=True).tolist()
    unnamed = set(sample.labels.tolist())  # one name a class: many would hide what they are about
    for row in order:
        label = int(sample.labels[row])
        words = images.classes[label] if label in unnamed else ""
        unnamed.discard(label)
        panel.box((sample.boxes[row] * factor).tolist(), words, colour_of(label), width=1.5)
    if not order and not len(sample.ignore):
        panel.title = f"{panel.title} (no object)"
    return panel
