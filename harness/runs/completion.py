"""From trained weights to the record: evaluate, write the record, its details and the leaderboard, clean up.

A run does it when its training ends; `harness eval` does it for a run that could not (`harness.records.pending`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from detector import FCOS
from harness.core.device import computing, out_of_memory, pick_device
from harness.core.distributed import Processes
from harness.core.environment import environment, source_version
from harness.core.errors import Interrupted, RunFailed, UserError
from harness.core.progress import say
from harness.core.stopping import exit_code
from harness.core.text import counted
from harness.data import open_data
from harness.data.base import ImageSet
from harness.data.check import without_unreadable
from harness.data.loading_processes import FEWER, loader_died, loading_processes
from harness.evaluation.coco_results import needs_coco, write_results
from harness.evaluation.inference import Detections, detect, judge
from harness.records.details import save_details
from harness.records.failures import failure_path
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, split_record
from harness.records.inputs import recorded_protocol
from harness.records.leaderboard import write_leaderboard
from harness.records.pending import Pending, clear_pending, completing, load_pending, save_pending, way_out
from harness.records.schema import RunRecord, SplitPart, now
from harness.records.store import ResultsStore
from harness.runs.recording import make_details
from harness.runs.samples import write_samples
from harness.runs.trained import TrainedRun, restore_trained, weights_at_hand
from harness.training.checkpoint import clear_checkpoint, earlier_code, load_network, save_network


@dataclass(frozen=True)
class RunOutcome:
    """What a run left behind, and where."""

    record: RunRecord
    path: Path
    work_dir: Path
    leaderboard: Path


@contextmanager
def training_kept(folder: RunFolder, complete: str, go_on: str) -> Iterator[None]:
    """Say of whatever goes wrong within the block that the training is kept, and what completes the run.

    Args:
        complete: the command for after a fault.
        go_on: the command for after Ctrl-C.

    Raises:
        UserError: in place of one.
        RunFailed: if memory runs out.
        Interrupted: after Ctrl-C.
    """
    advice = f"the training is kept in {folder.path}, complete the run with: {complete}"
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; {advice}") from error
    except KeyboardInterrupt as stop:
        raise Interrupted(folder.trained, go_on, exit_code(stop)) from None
    except Exception as error:
        if isinstance(error, MemoryError) or out_of_memory(error):
            raise RunFailed(f"out of memory while evaluating; free memory; {advice}") from error
        if (how := loader_died(error)) is not None:
            raise RunFailed(f"a loading process died while evaluating{how}; {FEWER}; {advice}") from error
        error.add_note(advice)  # a bug keeps its traceback
        raise


def complete(
    store: ResultsStore,
    pending: Pending,
    model: FCOS,
    images: ImageSet,
    detections: list[Detections],
    measured: Mapping[str, float],
    source: Mapping[str, str | None],
    *,
    again: bool,
) -> RunOutcome:
    """Write the record, the details, the leaderboard and sample pictures, and remove what only an unfinished run needs.

    Args:
        model: trained, with its assigner.
        images, detections: of its validation split.
        measured: cost of the evaluation, in a record's terms.
        source: the code that evaluates (`harness.core.environment.source_version`).
        again: whether an earlier attempt may have come as far as the record.
    """
    known, folder = pending.record, store.folder(pending.run_id)
    record = known.with_parts(
        created=now(),
        metrics=judge(images, detections),
        cost={**known.cost.model_dump(exclude_unset=True), **measured},
        source={**source, "earlier": earlier_code(pending.trained_by, source)},
    )
    path = (_written(store, pending) if again else None) or store.save(record)
    save_details(store, make_details(pending.run_id, images, detections, folder.trace))
    folder.trained.unlink(missing_ok=True)
    clear_checkpoint(folder.checkpoint, allowed=True)
    failure_path(store, pending.run_id).unlink(missing_ok=True)
    write_samples(folder.samples, model, images, recorded_protocol(record), record.seed)
    return RunOutcome(record, path, folder.path, write_leaderboard(store))


def own_images(store: ResultsStore, pending: Pending, data: str, val_split: str | None) -> ImageSet | None:
    """The validation split that a run's record is to be of, whatever has been mended in it; None if this is another.

    Args:
        data: as ``--data`` takes it.
        val_split: another split than the run's own.

    Raises:
        UserError: if it cannot be read.
    """
    known = pending.record.data
    if data.partition(":")[0] != known.kind or val_split not in (None, known.val.split):
        return None
    section = recorded_protocol(pending.record).data
    images = without_unreadable(open_data(data, section, role="val"), section, store.root, None)
    same = (images.title, images.split, list(images.classes)) == (known.title, known.val.split, known.classes)
    return images if same else None


def complete_run(
    store: ResultsStore,
    run_id: str,
    images: ImageSet,
    *,
    data: str,
    device: str = "auto",
    workers: int | None = None,
    console: Console | None = None,
    results_json: Path | None = None,
) -> RunOutcome:
    """Evaluate a run that is trained, and complete its record as the run itself would have.

    Args:
        images: its validation split (`own_images`). If it is not what it was, the run has another id, and its work
            folder moves there.
        data: where that lies, as ``--data`` takes it.
        results_json: also write the detections as COCO results.

    Raises:
        UserError: if anything that it needs is missing or damaged, or what the mended data makes of the run is there.
        InProgress: if another process is at it.
        RunFailed: if memory runs out.
        Interrupted: after Ctrl-C.
    """
    chosen, source = pick_device(device), source_version()
    again = completing(run_id, data, store.root)
    listed = needs_coco(images) if results_json is not None else None
    with ExitStack() as held:
        held.enter_context(store.lock(run_id))
        held.enter_context(computing(chosen, None))
        pending = load_pending(store, run_id)
        val = split_record(images)
        becomes = pending.spec(val).run_id
        if becomes != run_id:
            held.enter_context(store.lock(becomes))
            _expect_room(store, run_id, becomes)
        trained = restore_pending(store, pending, chosen)
        say(console, f"{run_id} is trained and waits for its record; evaluating {counted(len(images), 'image')}")
        with training_kept(store.folder(run_id), again, again):
            loaders = loading_processes(workers, trained.protocol, console=console)
            detections, milliseconds = detect(
                trained.model, images, trained.protocol, chosen, loaders, Processes(), console
            )
            if results_json is not None and listed is not None:
                write_results(results_json, listed, detections)
        if becomes != run_id:
            pending, again = relocate(store, pending, val), completing(becomes, data, store.root)
            say(console, renamed(run_id, becomes))
        with training_kept(store.folder(becomes), again, again):
            pending, measured = evaluated_on(pending, chosen), {"eval_ms_per_image": milliseconds}
            return complete(store, pending, trained.model, images, detections, measured, source, again=True)


def evaluated_on(pending: Pending, device: torch.device) -> Pending:
    """The run with what was otherwise while it was evaluated beside the environment that it was trained in."""
    known = pending.record.environment.model_dump()
    other = {key: value for key, value in environment(device).items() if value != known.get(key)}
    both = {**known, "evaluated": other} if other else known
    return replace(pending, record=pending.record.with_parts(environment=both))


def restore_pending(store: ResultsStore, pending: Pending, device: torch.device) -> TrainedRun:
    """The detector of a run that waits for its record, with its assigner.

    Raises:
        UserError: if its weights are missing, damaged or of another model.
    """
    path, weights = store.folder(pending.run_id).trained, store.folder(pending.run_id).network.name
    if not weights_at_hand(store, pending.record):
        raise UserError(f"{weights}, or what the assigner learnt, is missing beside {path}; {way_out(path)}")
    try:
        return restore_trained(store, pending.record, device, with_assigner=True)
    except UserError as error:
        raise UserError(f"{str(error).partition('; ')[0]}; {way_out(path)}") from error


def renamed(run_id: str, becomes: str) -> str:
    """What is said of a run whose validation split was mended."""
    return f"the validation split has changed since the training: the record is that of {becomes}, no longer {run_id}"


def free(store: ResultsStore, run_id: str) -> bool:
    """Whether nothing of a run is there: no record, no checkpoint, no weights."""
    folder = store.folder(run_id)
    there = folder.state is not None or folder.network.exists() or folder.trained.is_file()
    return not there and not store.record_files(run_id)


def relocate(store: ResultsStore, pending: Pending, val: SplitPart) -> Pending:
    """Make a trained run that of another validation split: under its id, in that one's work folder.

    The caller holds the run's lock. A kill on the way leaves at least one of the two complete.
    """
    old, spec = pending.run_id, pending.spec(val)
    source, target = store.folder(old), store.folder(spec.run_id)
    about = weights_header(spec, pending.record.data.classes)
    for weights, place in ((source.network, target.network), (source.assigner, target.assigner)):
        if weights.exists():
            save_network(place, load_network(weights), about)
    if source.trace.exists():
        shutil.copyfile(source.trace, target.trace)
    moved = replace(pending, record=pending.record.model_copy(update={"run_id": spec.run_id, "data": spec.data}))
    save_pending(store, moved)
    clear_pending(store, old, allowed=True)
    clear_checkpoint(source.checkpoint, allowed=True)
    failure_path(store, old).unlink(missing_ok=True)
    if not store.record_files(old):  # else the weights are that record's
        shutil.rmtree(source.path, ignore_errors=True)
    return moved


def weights_header(spec: RunSpec, classes: Sequence[str]) -> dict[str, Any]:
    """What the files of a run's weights say of it."""
    return {
        "run_id": spec.run_id, "classes": list(classes), "options": spec.options,
        "protocol": spec.protocol.model_dump(mode="json"), "assigner": spec.assigner,
    }  # fmt: skip


def _expect_room(store: ResultsStore, run_id: str, becomes: str) -> None:
    if not free(store, becomes):
        lies = "has a record" if store.record_files(becomes) else "lies unfinished"
        raise UserError(
            f"the validation split has changed since the training, which makes {run_id} the run {becomes}, and that "
            f"one {lies} already; remove {store.folder(run_id).path}, or use another --results directory"
        )


def _written(store: ResultsStore, pending: Pending) -> Path | None:
    """The record of this very training, if it was written and what follows was not: no two take the same time."""
    attempts, seconds = store.attempts(pending.run_id), pending.record.cost.train_s
    return next((path for path, record in attempts.items() if record.cost.train_s == seconds), None)
