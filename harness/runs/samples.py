"""Sample pictures: which points a run's assigner takes from two validation images, drawn while its detector is at hand.

results/work/<run id>/samples/samples.json   the images by name and size, and the file of each
results/work/<run id>/samples/0.png
"""

from __future__ import annotations

import io
from pathlib import Path
from shutil import rmtree

from PIL import Image

from assigners.contract import Step
from detector import FCOS
from harness.core.files import dump, write_atomically
from harness.data.base import ImageSet
from harness.inspection.one_image import assign, look
from harness.inspection.one_image_sheet import overview
from harness.protocol.protocol import Protocol
from harness.records.store import SAMPLES

IMAGES = 2  # of the validation split, those with the most objects among the first few
CANDIDATES = 12
SIDE = 400  # px of a picture's longer edge
COLOURS = 96  # of its palette: a third of the bytes, and no difference to the eye


def write_samples(work: Path, model: FCOS, images: ImageSet, protocol: Protocol, seed: int) -> None:
    """Draw what the assigner takes at the end of training; nothing for a detector without its assigner.

    Args:
        work: folder of the run.
        model: trained; it is left in evaluation mode.
        images: the validation split.
    """
    if model.assigner is None:
        return
    model.eval()
    step = Step(seed, protocol.schedule.steps, 1.0)
    chosen = sorted(range(min(CANDIDATES, len(images))), key=lambda index: -len(images.annotations(index)))[:IMAGES]
    pictures, files = [], {}
    for number, index in enumerate(chosen):
        view = look(model, images, index, protocol)
        drawn = assign(model, view, step, range(view.targets.num_boxes))
        picture = overview(view, drawn, None, SIDE).finished()
        name = f"{number}.png"
        files[name] = _png(picture)
        pictures.append({"image": view.name, "file": name, "width": picture.width, "height": picture.height})
    listed = work / SAMPLES
    folder = listed.parent
    rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    write_atomically(listed, dump(pictures))  # last: where it lies, its pictures do


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
