"""Sample pictures: which points each assigner of a board takes from the same images, as PNG data URIs."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image

from assigners.contract import Step
from detector import FCOS
from harness.analysis.one_image import assign, look
from harness.analysis.one_image_sheet import overview
from harness.comparison.board import Board, Entry
from harness.core.again import aimed_record
from harness.core.errors import UserError
from harness.data import open_data
from harness.data.sources import needs_folder
from harness.drawing.svg import key
from harness.protocol.protocol import Protocol, recorded_protocol
from harness.records.data import data_spec
from harness.records.store import ResultsStore
from harness.report.cells import Series
from harness.report.content import Sample, Samples
from harness.runs.trained import load_trained, weights_at_hand
from harness.training.build import attach_assigner, build_detector, resolve_assigner

IMAGES = 2  # of the validation split, those with the most objects among the first few
CANDIDATES = 12
SIDE = 400  # px of a picture's longer edge
COLOURS = 96  # of its palette: a third of the bytes, and no difference to the eye


def sample_pictures(store: ResultsStore, board: Board, series: Series) -> Samples | None:
    """A row of pictures per image, one for each assigner of the board.

    Returns:
        None where the images are not at hand: data that is not embedded, or shapes that were drawn otherwise then.
    """
    record = board.entries[0].records[-1]
    if needs_folder(record["data"]["kind"]):
        return None
    protocol = recorded_protocol(aimed_record(record, store.root))
    images = open_data(data_spec(record, None), protocol.data, role="val")
    if images.checksum() != record["data"]["val"]["checksum"]:
        return None
    by_objects = sorted(range(min(CANDIDATES, len(images))), key=lambda index: -len(images.annotations(index)))
    rows: list[list[Sample]] = [[] for _ in by_objects[:IMAGES]]
    lacking = []
    for entry in board.entries:
        try:
            model, step, detector = _detector(store, entry, protocol, len(images.classes))
        except UserError as error:  # of a package or a version that is not installed here
            lacking.append(f"None of {entry.name}: {error}.")
            continue
        for row, index in zip(rows, by_objects, strict=False):
            view = look(model, images, index, protocol)
            drawn = assign(model, view, step, range(view.targets.num_boxes))
            picture = overview(view, drawn, None, SIDE).finished()
            words = f"the samples that {entry.name} takes from {view.name}"
            row.append(Sample(entry.name, key(series[entry.name]), _data_uri(picture), words, detector, *picture.size))
    return Samples(tuple(tuple(row) for row in rows if row), tuple(lacking))


def _detector(store: ResultsStore, entry: Entry, protocol: Protocol, classes: int) -> tuple[FCOS, Step, str]:
    """The entry's own trained detector where its weights are at hand, else a fresh one."""
    for record in entry.records:
        if weights_at_hand(store, record):
            trained = load_trained(store, record["run_id"], torch.device("cpu"), with_assigner=True)
            return trained.model, Step(record["seed"], protocol.schedule.steps, 1.0), f"trained, seed {record['seed']}"
    seed = entry.records[0]["seed"]
    options, _ = resolve_assigner(entry.assigner, entry.options)
    model = build_detector(protocol, classes, seed)
    attach_assigner(model, entry.assigner, options, seed)
    return model.eval(), Step(seed), "untrained"


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
