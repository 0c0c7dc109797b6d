"""A run from request to record: data, detector, training, evaluation, the row on the leaderboard."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from assigners.contract import Assigner, Declares
from detector import FCOS
from harness.build import attach_assigner, build_detector, resolve_assigner
from harness.checkpoint import clear_checkpoint, earlier_code, note_code, save_network
from harness.coco_results import needs_coco, write_results
from harness.data import open_data
from harness.data.base import ImageSet
from harness.data.check import CHECKED, checked
from harness.data.loader import train_batches
from harness.data.splits import open_splits, say_warnings
from harness.details import make_details, save_details
from harness.device import computing, default_workers, out_of_memory, peak_memory_mb, pick_device, reset_peak_memory
from harness.distributed import Processes, processes
from harness.environment import environment, source_version
from harness.errors import Interrupted, RunFailed, UserError, shorten
from harness.evaluate import coco_metrics
from harness.inference import Detections, detect, judge
from harness.leaderboard import write_leaderboard
from harness.progress import Reporter
from harness.protocol import Protocol
from harness.record import SCHEMA
from harness.store import ResultsStore, RunSpec, data_record
from harness.trained import ASSIGNER_FILE, NETWORK_FILE, load_trained
from harness.trainer import TRACE_FILE, StopRequested, Trainer
from harness.twin import adopt, find_twin
from harness.wording import counted


@dataclass(frozen=True)
class RunRequest:
    """What to run.

    Attributes:
        assigner, options: by name; options as text or values.
        data: ``shapes``, ``coco:DIR``, ``voc:DIR`` or ``wider:DIR``.
        protocol: what is equal across assigners.
        seed: of everything random.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads, workers: of the CPU and of loading; they change the speed alone (threads also the last bits).
        resume: go on from the last checkpoint if there is one.
        restart: begin anew even if there is one.
        results: the results directory.
        command: the line that repeats this run, for the record.
        again: the line that goes on with it in this very place; `command` with --resume where empty.
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
    again: str = ""
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
        RunFailed: if the loss or a gradient stops being finite, or memory runs out.
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint saved.
    """
    options, changed = resolve_assigner(request.assigner, request.options)
    device = pick_device(request.device)
    train, val = _open(request)
    spec = RunSpec(
        request.protocol,
        data_record(request.data.partition(":")[0], train, val),
        request.assigner,
        options,
        request.seed,
    )
    store = ResultsStore(request.results)
    source = source_version()  # of the code that is loaded, not of what a checkout holds hours later
    with processes(device.type) as group, computing(device, request.threads):
        if group.world > 1 and device.type == "cuda":
            device = torch.device("cuda", group.local_rank)
        with store.lock(spec.run_id) if group.main else nullcontext():
            job = _Job(request, spec, store, device, group, train, val)
            trainer = job.prepare(source)
            job.fit(trainer)
            return job.finish(trainer, source, changed)


def _open(request: RunRequest) -> tuple[ImageSet, ImageSet]:
    """Both splits, every image of which can be read; what is odd about them is shown."""
    section, folder = request.protocol.data, request.results / CHECKED
    workers = default_workers(request.workers)
    train, val = (
        checked(images, section, folder, workers, request.console)
        for images in open_splits(request.data, request.protocol)
    )
    if request.console is not None:
        sides = (
            f"{role} {images.split}: {counted(len(images), 'image')}"
            for role, images in (("training on", train), ("evaluating on", val))
        )
        request.console.print(f"{train.title}: {', '.join(sides)}", highlight=False, markup=False, soft_wrap=True)
    say_warnings(request.console, train, val)
    return train, val


@dataclass(frozen=True)
class _Job:
    """One process's part in a run: what `run` has opened, and the three things that are done with it."""

    request: RunRequest
    spec: RunSpec
    store: ResultsStore
    device: torch.device
    group: Processes
    train: ImageSet
    val: ImageSet

    @property
    def work(self) -> Path:
        return self.store.work_dir(self.spec.run_id)

    def prepare(self, source: dict[str, Any]) -> Trainer:
        """The detector with its assigner, at the first step or where the last checkpoint left it."""
        request, spec, device = self.request, self.spec, self.device
        reset_peak_memory(device)
        model = build_detector(spec.protocol, len(self.train.classes), spec.seed)
        attach_assigner(model, spec.assigner, spec.options, spec.seed)
        model.to(device).to(memory_format=torch.channels_last)  # the layout that convolutions like best, on a CPU too
        trainer = Trainer(
            model, spec.protocol, spec.run_id, spec.seed, device, self.group, self.work, self.train.name,
            request.checkpoint_seconds,
        )  # fmt: skip
        if not request.resume and self.group.main:
            clear_checkpoint(trainer.checkpoint_folder, allowed=request.restart)
        if request.resume and trainer.resume():
            self._say(f"continuing at step {trainer.state.step}")
        elif not request.restart and (twin := find_twin(self.store, spec, trainer.state.initial_weights)):
            adopt(trainer, self.store, twin)
            self._say(f"trained as {twin['run_id']}, which is evaluated otherwise; --restart trains again")
        note_code(trainer.state, source)
        if earlier := earlier_code(trainer.state, source):
            told = f"trained so far by {', '.join(earlier)}; this is {source['commit'] or source['version']}"
            self._say(f"warning: {told}; the record will name both, --restart begins anew")
        again = request.again or request.command
        trainer.state.command = again if "--resume" in again.split() else f"{again} --resume"
        return trainer

    def fit(self, trainer: Trainer) -> None:
        """Train to the last step."""
        request, protocol = self.request, self.spec.protocol
        batches = train_batches(
            self.train, protocol, seed=self.spec.seed, start_step=trainer.state.step, rank=self.group.rank,
            world=self.group.world, workers=default_workers(request.workers), pin=self.device.type == "cuda",
        )  # fmt: skip
        reporter = Reporter(self.console, protocol.schedule.steps, trainer.state.step, protocol.schedule.batch_size)

        def evaluate() -> dict[str, float | None]:
            with reporter.paused():
                detections, _ = self.detect(trainer.evaluated)
            return coco_metrics(self.val, detections) if self.group.main else {}

        try:
            trainer.fit(batches, reporter, evaluate)
        except StopRequested:
            raise Interrupted(trainer.checkpoint_folder, trainer.state.command) from None
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise RunFailed(
                f"out of memory on {self.device} at step {trainer.state.step}; lower schedule.batch_size or "
                "data.short_edge (another protocol), or free memory and go on with --resume"
            ) from error
        finally:
            reporter.close()

    def finish(self, trainer: Trainer, source: dict[str, Any], changed: dict[str, Any]) -> RunOutcome:
        """Evaluate, save the weights, write the record and the leaderboard."""
        self._say(f"evaluating {counted(len(self.val), 'image')}")
        detections, milliseconds = self.detect(trainer.evaluated)
        if not self.group.main:
            return RunOutcome()
        spec, model = self.spec, trainer.evaluated
        about = {"run_id": spec.run_id, "classes": list(self.train.classes), "options": spec.options,
                 "protocol": spec.protocol.model_dump(mode="json"), "assigner": spec.assigner}  # fmt: skip
        save_network(self.work / NETWORK_FILE, model.network_state(), about)
        if model.assigner is not None and (learnt := model.assigner.state_dict()):
            save_network(self.work / ASSIGNER_FILE, learnt, about)
        record = {
            **_about(spec, changed),
            "metrics": judge(self.val, detections),
            "cost": {**_cost(trainer, self.device), "eval_ms_per_image": milliseconds},
            "environment": environment(self.device),
            "declares": _declared(trainer.model.assigner),
            "source": {**source, "earlier": earlier_code(trainer.state, source)},
            "equal": {"initial_weights": trainer.state.initial_weights, "batches": _hex(trainer.state.batches)},
            "command": self.request.command,
            "progress": _progress(trainer),
        }
        path = self.store.save(record)
        save_details(self.store, make_details(spec.run_id, self.val, detections, trainer.trace_path))
        shutil.rmtree(trainer.checkpoint_folder, ignore_errors=True)
        return RunOutcome(record, path, self.work, write_leaderboard(self.store))

    def detect(self, model: FCOS) -> tuple[list[Detections], float]:
        """Detections (on the main process) and milliseconds per image; progress is shown where there is a console."""
        workers = default_workers(self.request.workers)
        return detect(model, self.val, self.spec.protocol, self.device, workers, self.group, self.console)

    @property
    def console(self) -> Console | None:
        """Where to speak: one process does."""
        return self.request.console if self.group.main else None

    def _say(self, text: str) -> None:
        if self.console is not None:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)


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


def _declared(assigner: Assigner | None) -> dict[str, Any]:
    """What the assigner changes besides the assignment, as JSON values; what it leaves alone is absent."""
    usual = Declares()
    declares = usual if assigner is None else assigner.declares
    changed = {field.name: getattr(declares, field.name) for field in fields(usual)}
    return {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in changed.items()
        if value != getattr(usual, name)
    }


def _progress(trainer: Trainer) -> dict[str, Any]:
    """How far training came, and the losses of its last step."""
    state = trainer.state
    twin = {} if state.trained_as is None else {"trained_as": state.trained_as}
    return {"steps": state.step, "curve": state.curve, **twin, **trainer.latest}


def _hex(digest: int | None) -> str | None:
    return None if digest is None else f"{digest:08x}"


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
    details: bool = False,
    val_split: str | None = None,
    results_json: Path | None = None,
) -> dict[str, Any] | None:
    """Evaluate a finished run's weights again, on its own validation split or on other data.

    Args:
        details: also write the run's file of details; the data must be its own.
        val_split: another split than the run's own.
        results_json: also write the detections as COCO results; the data may then be images without annotations.

    Returns:
        The metrics; ``None`` where there are no annotations.

    Raises:
        UserError: if the run is unknown, its weights are not at hand, the data has other classes, or is not COCO's
            where results are to be written.
    """
    chosen = pick_device(device)
    trained = load_trained(store, run_id, chosen)
    section = trained.protocol.data
    if val_split is not None:
        section = section.model_copy(update={"val_split": val_split})
    images = open_data(data, section, role="val", annotated=results_json is None)
    if section.unreadable == "skip":
        images = checked(images, section, store.root / CHECKED, default_workers(workers), console)
    listed = needs_coco(images) if results_json is not None else None
    say_warnings(console, images)
    if images.classes != trained.classes:
        known, learnt = (shorten(", ".join(classes)) for classes in (images.classes, trained.classes))
        raise UserError(f"{data} has classes {known}, the run was trained on {learnt}; give data of the same classes")
    if details and images.checksum() != trained.record["data"]["val"]["checksum"]:
        raise UserError(
            f"{data} is not what {run_id} was evaluated on (another checksum): --details needs its own data"
        )
    with computing(chosen, None):
        loaders = default_workers(workers)
        detections, _ = detect(trained.model, images, trained.protocol, chosen, loaders, Processes(), console)
    if details:
        trace = store.work_dir(trained.run_id) / TRACE_FILE
        save_details(store, make_details(trained.run_id, images, detections, trace))
    if results_json is not None and listed is not None:
        count = write_results(results_json, listed, detections)
        if console is not None:
            told = f"{count} detections in {len(images)} images written to {results_json}"
            console.print(told, highlight=False, markup=False, soft_wrap=True)
        if not listed.annotated:
            return None
    return judge(images, detections)
