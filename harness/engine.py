"""A run from request to record: data, detector, training, evaluation, the row on the leaderboard."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from detector import FCOS
from harness.build import attach_assigner, build_detector, resolve_assigner
from harness.checkpoint import clear_checkpoint, save_network
from harness.data import open_data
from harness.data.base import ImageSet
from harness.data.loader import train_batches
from harness.distributed import Processes, processes
from harness.environment import environment, source_version
from harness.errors import Interrupted, UserError, shorten
from harness.inference import detect, judge
from harness.leaderboard import write_leaderboard
from harness.progress import Reporter
from harness.protocol import Protocol
from harness.record import SCHEMA
from harness.store import ResultsStore, RunSpec, data_record
from harness.trained import ASSIGNER_FILE, NETWORK_FILE, load_trained
from harness.trainer import StopRequested, Trainer


@dataclass(frozen=True)
class RunRequest:
    """What to run.

    Attributes:
        assigner, options: by name; options as text or values.
        data: ``shapes``, ``coco:DIR`` or ``voc:DIR``.
        protocol: what is equal across assigners.
        seed: of everything random.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads, workers: of the CPU and of loading; they change the speed alone (threads also the last bits).
        resume: go on from the last checkpoint if there is one.
        restart: begin anew even if there is one.
        results: the results directory.
        command: the line that repeats this run, for the record.
        console: where progress is shown.
        checkpoint_seconds: between checkpoints.
    """

    assigner: str
    options: dict[str, Any]
    data: str
    protocol: Protocol
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    resume: bool = False
    restart: bool = False
    results: Path = Path("results")
    command: str = ""
    console: Console | None = None
    checkpoint_seconds: float = 30.0


@dataclass(frozen=True)
class RunOutcome:
    """What a run left behind; on other processes than the main one without a record."""

    record: dict[str, Any] = field(default_factory=dict)
    path: Path = Path()
    work_dir: Path = Path()
    leaderboard: Path = Path()


def run(request: RunRequest) -> RunOutcome:
    """Train, evaluate and record.

    Raises:
        UserError: for a request that cannot be met.
        RunFailed: if the loss or a gradient stops being finite.
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint saved.
    """
    options, changed = resolve_assigner(request.assigner, request.options)
    device = pick_device(request.device)
    train, val = open_splits(request.data, request.protocol)
    say_warnings(request.console, train, val)
    spec = RunSpec(
        request.protocol,
        data_record(request.data.partition(":")[0], train, val),
        request.assigner,
        options,
        request.seed,
    )
    store = ResultsStore(request.results)
    with processes(device.type) as group, computing(device, request.threads):
        if group.world > 1 and device.type == "cuda":
            device = torch.device("cuda", group.local_rank)
        with store.lock(spec.run_id) if group.main else nullcontext():
            return _run(request, spec, changed, store, device, group, train, val)


def _run(
    request: RunRequest,
    spec: RunSpec,
    changed: dict[str, Any],
    store: ResultsStore,
    device: torch.device,
    group: Processes,
    train: ImageSet,
    val: ImageSet,
) -> RunOutcome:
    protocol, work = request.protocol, store.work_dir(spec.run_id)
    source = source_version()  # of the code that is loaded, not of what a checkout holds hours later
    workers = default_workers(request.workers)
    model = build_detector(protocol, len(train.classes), request.seed)
    attach_assigner(model, spec.assigner, spec.options, request.seed)
    model.to(device).to(memory_format=torch.channels_last)  # the layout that convolutions like best, on a CPU too
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer = Trainer(
        model, protocol, spec.run_id, request.seed, device, group, work, train.name, request.checkpoint_seconds
    )
    if not request.resume and group.main:
        clear_checkpoint(trainer.checkpoint_folder, allowed=request.restart)
    console = request.console if group.main else None
    if request.resume and trainer.resume() and console is not None:
        console.print(f"continuing at step {trainer.state.step}", highlight=False)

    def evaluate(model: FCOS) -> tuple[dict[str, Any], float]:
        detections, milliseconds = detect(model, val, protocol, device, workers, group)
        return (judge(val, detections) if group.main else {}), milliseconds

    def intermediate() -> dict[str, float | None]:
        return {name: value for name, value in evaluate(trainer.evaluated)[0].items() if name != "bins"}

    batches = train_batches(
        train,
        protocol,
        seed=request.seed,
        start_step=trainer.state.step,
        rank=group.rank,
        world=group.world,
        workers=workers,
        pin=device.type == "cuda",
    )
    reporter = Reporter(console, protocol.schedule.steps, trainer.state.step, protocol.schedule.batch_size)
    try:
        trainer.fit(batches, reporter, intermediate)
    except StopRequested:
        command = request.command if "--resume" in request.command.split() else f"{request.command} --resume"
        raise Interrupted(trainer.checkpoint_folder, command) from None
    finally:
        reporter.close()

    if console is not None:
        console.print(f"evaluating {len(val)} images", highlight=False)
    metrics, milliseconds = evaluate(trainer.evaluated)
    if not group.main:
        return RunOutcome()
    about = {"run_id": spec.run_id, "classes": list(train.classes), "protocol": protocol.model_dump(mode="json"),
             "assigner": spec.assigner, "options": spec.options}  # fmt: skip
    save_network(work / NETWORK_FILE, trainer.evaluated.network_state(), about)
    assigner = trainer.evaluated.assigner
    if assigner is not None and (learnt := assigner.state_dict()):
        save_network(work / ASSIGNER_FILE, learnt, about)
    record = {
        **_about(spec, changed),
        "metrics": metrics,
        "cost": {**_cost(trainer, device), "eval_ms_per_image": milliseconds},
        "environment": environment(device),
        "source": source,
        "command": request.command,
        "progress": {"steps": trainer.state.step, "curve": trainer.state.curve, **trainer.latest},
    }
    path = store.save(record)
    shutil.rmtree(trainer.checkpoint_folder, ignore_errors=True)
    return RunOutcome(record, path, work, write_leaderboard(store))


def _about(spec: RunSpec, changed: dict[str, Any]) -> dict[str, Any]:
    """What a record says of the question that the run answers."""
    protocol = spec.protocol
    return {
        "schema": SCHEMA,
        "run_id": spec.run_id,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "protocol": {
            "name": protocol.name, "note": protocol.note, "hash": protocol.digest, "content": protocol.content(),
        },
        "data": spec.data,
        "assigner": spec.assigner,
        "options": spec.options,
        "changed_options": changed,
        "seed": spec.seed,
    }  # fmt: skip


def _cost(trainer: Trainer, device: torch.device) -> dict[str, float]:
    """What training cost, in a record's terms."""
    step_seconds, batch_size = trainer.median_step_seconds, trainer.protocol.schedule.batch_size
    sizes = {name: parameter.numel() for name, parameter in trainer.model.named_parameters()}
    assigner = sum(size for name, size in sizes.items() if name.startswith("assigner."))
    return {
        "step_ms": 1000 * step_seconds,
        "images_per_s": batch_size / step_seconds if step_seconds else 0.0,
        "train_s": trainer.state.seconds,
        "peak_memory_mb": peak_memory_mb(device),
        "parameters": sum(sizes.values()) - assigner,
        "assigner_parameters": assigner,
    }


def evaluate_run(
    store: ResultsStore,
    run_id: str,
    *,
    data: str,
    device: str = "auto",
    workers: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Evaluate a finished run's weights again, on its own validation split or on other data.

    Raises:
        UserError: if the run is unknown, its weights are not at hand or the data has other classes.
    """
    chosen = pick_device(device)
    trained = load_trained(store, run_id, chosen)
    images = open_data(data, trained.protocol.data, role="val")
    say_warnings(console, images)
    if images.classes != trained.classes:
        known, learnt = (shorten(", ".join(classes)) for classes in (images.classes, trained.classes))
        raise UserError(f"{data} has classes {known}, the run was trained on {learnt}; give data of the same classes")
    with computing(chosen, None):
        detections, _ = detect(trained.model, images, trained.protocol, chosen, default_workers(workers), Processes())
    return judge(images, detections)


def say_warnings(console: Console | None, *splits: ImageSet) -> None:
    """Show what was left out of the data, so that nobody has to find it in the record."""
    if console is None:
        return
    for images in splits:
        for what, count in sorted(images.warnings.items()):
            line = f"warning: {count} {what} in {images.title}, split {images.split}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def open_splits(data: str, protocol: Protocol) -> tuple[ImageSet, ImageSet]:
    """The training and validation images.

    Raises:
        UserError: if they cannot be read, are empty, or differ in their classes.
    """
    train, val = open_data(data, protocol.data, role="train"), open_data(data, protocol.data, role="val")
    if train.classes != val.classes:
        alone = sorted({*train.classes} ^ {*val.classes}) or ["their order"]
        raise UserError(
            f"{data}: the splits {train.split} and {val.split} have different classes ({shorten(', '.join(alone))}); "
            "give both the same categories"
        )
    return train, val


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one.

    Raises:
        UserError: if a GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu, or install a CUDA build of torch")
    return torch.device(name)


def default_workers(asked: int | None) -> int:
    """Loading processes: as asked, else one less than half the cores, at most 8; on two cores they only compete."""
    return asked if asked is not None else max(0, min(8, (os.cpu_count() or 1) // 2 - 1))


@contextmanager
def computing(device: torch.device, threads: int | None) -> Iterator[None]:
    """Thread count and, on the CPU, deterministic kernels; both are put back afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if threads is not None:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(device.type == "cpu" or before[1])
    # Deterministic mode also fills every new tensor, to expose reads of unwritten memory; that is for debugging.
    debug: Any = torch.utils.deterministic
    fill, debug.fill_uninitialized_memory = debug.fill_uninitialized_memory, False
    try:
        yield
    finally:
        debug.fill_uninitialized_memory = fill
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far: of the allocator on a GPU, of the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / (2**20 if sys.platform == "darwin" else 2**10)
