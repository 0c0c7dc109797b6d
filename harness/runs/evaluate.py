"""Evaluate the weights of a run again, on its own validation split or on other data. Records stay as they are."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from harness.core.device import computing, pick_device
from harness.core.distributed import Processes
from harness.core.errors import UserError, shorten
from harness.core.progress import say
from harness.data import open_data
from harness.data.base import ImageSet
from harness.data.check import without_unreadable
from harness.data.loading_processes import loading_processes
from harness.data.readers.folder import FolderSet
from harness.data.splits import SHARED, say_warnings, shared_images
from harness.evaluation.coco_results import needs_coco, write_results
from harness.evaluation.inference import detect, judge
from harness.records.details import save_details
from harness.records.pending import find_pending, load_pending
from harness.records.schema import MetricsPart
from harness.records.store import ResultsStore
from harness.runs.completion import restore_pending
from harness.runs.recording import make_details
from harness.runs.samples import write_samples
from harness.runs.trained import TrainedRun, load_trained


def evaluate_run(
    store: ResultsStore,
    run_id: str,
    *,
    data: str,
    device: str = "auto",
    workers: int | None = None,
    console: Console | None = None,
    details: bool = False,
    val_split: str | None = None,
    results_json: Path | None = None,
) -> MetricsPart | None:
    """Evaluate a trained run's weights again, on its own validation split or on other data.

    A run that waits for its record (`harness.records.pending`) is evaluated likewise; this writes no record.

    Args:
        details: also write the run's file of details and its sample pictures; the data must be its own.
        val_split: another split than the run's own.
        results_json: also write the detections as COCO results; the data may then be images without annotations.

    Returns:
        The metrics; ``None`` where there are no annotations.

    Raises:
        UserError: if the run is unknown, its weights are not at hand, the data has other classes, or is not COCO's
            where results are to be written.
    """
    chosen = pick_device(device)
    waiting = find_pending(store, run_id)
    if waiting is None:
        trained = load_trained(store, run_id, chosen, with_assigner=details)
    else:
        trained = restore_pending(store, load_pending(store, waiting), chosen)
    section = trained.protocol.data
    if val_split is not None:
        section = section.model_copy(update={"val_split": val_split})
    images = open_data(data, section, role="val", annotated=results_json is None)
    images = without_unreadable(images, section, store.root, console)
    listed = needs_coco(images) if results_json is not None else None
    note_trained_on(images, data, trained)
    say_warnings(console, images)
    if images.classes != trained.classes:
        known, learnt = (shorten(", ".join(classes)) for classes in (images.classes, trained.classes))
        raise UserError(f"{data} has classes {known}, the run was trained on {learnt}; give data of the same classes")
    if details and images.checksum() != trained.record.data.val.checksum:
        raise UserError(
            f"{data} is not what {run_id} was evaluated on (another checksum): --details needs its own data"
        )
    with computing(chosen, None):
        loaders = loading_processes(workers, trained.protocol, console=console)
        detections, _ = detect(trained.model, images, trained.protocol, chosen, loaders, Processes(), console)
    if details:
        folder = store.folder(trained.run_id)
        save_details(store, make_details(trained.run_id, images, detections, folder.trace))
        write_samples(folder.samples, trained.model, images, trained.protocol, trained.record.seed)
    if results_json is not None and listed is not None:
        count = write_results(results_json, listed, detections)
        say(console, f"{count} detections in {len(images)} images written to {results_json}")
        if not listed.annotated:
            return None
    return MetricsPart.model_validate(judge(images, detections))


def note_trained_on(images: ImageSet, data: str, trained: TrainedRun) -> None:
    """Count among the warnings of a split those of its images that the run was trained on.

    It is asked of the data set that the run was trained on alone: of another one its splits mean nothing.

    Args:
        data: where the images are from, as ``--data`` takes it.
        trained: the run.
    """
    known = trained.record.data
    if not isinstance(images, FolderSet) or images.title != known.title or SHARED in images.warnings:
        return
    section = trained.protocol.data.model_copy(update={"train_split": known.train.split})
    try:
        train = open_data(data, section, role="train")
    except UserError:
        return  # a copy of the set without its training images
    if isinstance(train, FolderSet):
        images.warnings.note_all(SHARED, (images.name(index) for _, index in shared_images(train, images)))
