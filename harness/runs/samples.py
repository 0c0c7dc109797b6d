"""Sample pictures: which points a run's assigner takes from two validation images, drawn while its detector is at hand.

results/work/<run id>/samples/samples.json   the images by name and size, and the file of each
results/work/<run id>/samples/0.png
"""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree

from PIL import Image

from assigners.contract import Step
from detector import FCOS
from harness.core.files import dump, write_atomically
from harness.data.base import ImageSet
from harness.drawing.images import png
from harness.inspection.one_image import assign, look
from harness.inspection.one_image_sheet import overview
from harness.protocol.protocol import Protocol

IMAGES = 2  # of the validation split, those with the most objects among the first few
CANDIDATES = 12
SIDE = 400  # px of a picture's longer edge
COLOURS = 96  # of its palette: a third of the bytes, and no difference to the eye


def write_samples(index: Path, model: FCOS, images: ImageSet, protocol: Protocol, seed: int) -> None:
    """Draw what the assigner takes at the end of training; nothing for a detector without its assigner.

    Args:
        index: the file that lists the pictures (`RunFolder.samples`); what lies beside it is replaced.
        model: trained; it is left in evaluation mode.
        images: the validation split.
    """
    if model.assigner is None:
        return
    model.eval()
    step = Step(seed, protocol.schedule.steps, 1.0)
    chosen = sorted(range(min(CANDIDATES, len(images))), key=lambda index: -len(images.annotations(index)))[:IMAGES]
    pictures, files = [], {}
    for number, position in enumerate(chosen):
        view = look(model, images, position, protocol)
        samples = assign(model, view, step, range(view.targets.num_boxes))
        picture = overview(view, samples, None, SIDE).finished()
        name = f"{number}.png"
        files[name] = png(picture.quantize(COLOURS, dither=Image.Dither.NONE), optimize=True)
        pictures.append({"image": view.name, "file": name, "width": picture.width, "height": picture.height})
    rmtree(index.parent, ignore_errors=True)
    for name, content in files.items():
        write_atomically(index.with_name(name), content)
    write_atomically(index, dump(pictures))  # last: where it lies, its pictures do
