"""A run from request to record: data, detector, training, evaluation, the row on the leaderboard."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from detector import FCOS
from harness.core.device import (
    computing,
    default_workers,
    out_of_memory,
    peak_memory_mb,
    pick_device,
    reset_peak_memory,
)
from harness.core.distributed import Processes, processes
from harness.core.environment import source_version
from harness.core.errors import Interrupted, RunFailed, Unwritable, UserError
from harness.core.progress import Reporter, say
from harness.core.text import counted
from harness.data.base import ImageSet
from harness.data.check import CHECKED, checked
from harness.data.loader import train_batches
from harness.data.loading_processes import FEWER, loader_died, loading_processes
from harness.data.splits import open_splits, say_warnings
from harness.evaluation.coco_metrics import coco_metrics
from harness.evaluation.inference import Detections, detect
from harness.protocol.protocol import Protocol
from harness.records.folder import RunFolder
from harness.records.identity import RunSpec, data_record, split_record, trained_alike
from harness.records.pending import Pending, clear_pending, completing, load_pending, save_pending
from harness.records.store import ResultsStore
from harness.records.unfinished import last_state, nearest, siblings
from harness.runs import completion
from harness.runs.completion import RunOutcome
from harness.runs.evaluate import evaluate_run
from harness.runs.recording import unfinished_record
from harness.runs.reuse import adopt, find_twin
from harness.training.build import attach_assigner, build_detector, resolve_assigner, share_statistics
from harness.training.checkpoint import clear_checkpoint, earlier_code, note_code, save_network
from harness.training.trainer import StopRequested, Trainer

__all__ = ["RunOutcome", "RunRequest", "evaluate_run", "open_splits", "run", "say_warnings"]


@dataclass(frozen=True)
class RunRequest:
    """What to run."""

    assigner: str
    options: dict[str, Any]  # as text or values
    data: str  # as ``--data`` takes it: ``shapes``, ``coco:DIR``
    protocol: Protocol  # what is equal across assigners
    seed: int = 0  # of everything random
    device: str = "auto"  # or ``cpu``, ``cuda``
    threads: int | None = None  # of the CPU; they change the speed, and the last bits
    workers: int | None = None  # that load images; they change the speed alone
    resume: bool = False  # go on from the last checkpoint if there is one
    restart: bool = False  # begin anew even if there is one
    results: Path = Path("results")
    command: str = ""  # the line that repeats this run, for the record
    again: str = ""  # the line that goes on with it in this very place; `command` with --resume where empty
    console: Console | None = None  # where progress is shown
    checkpoint_seconds: float = 30.0  # between checkpoints


def run(request: RunRequest) -> RunOutcome | None:
    """Train, evaluate and record.

    Raises:
        UserError: for a request that cannot be met, or data that turns out to be damaged.
        RunFailed: if the loss or a gradient stops being finite, there is nothing to learn from, or memory runs out.
        Interrupted: after Ctrl-C or a scheduler's signal, with a checkpoint saved.
    """
    chosen = resolve_assigner(request.assigner, request.options)
    device = pick_device(request.device)
    store = ResultsStore(request.results)
    source = source_version()  # of the code that is loaded, not of what a checkout holds hours later
    with processes(device.type) as group, computing(device, request.threads):
        if group.world > 1 and device.type == "cuda":
            device = torch.device("cuda", group.local_rank)
        train, val = _open(request)  # among the others, who are told where one process alone cannot read it
        data = data_record(request.data.partition(":")[0], train, val)
        spec = RunSpec(request.protocol, data, chosen.assigner, chosen.options, request.seed)
        with store.lock(spec.run_id) if group.main else nullcontext():
            job = _Job(request, spec, store, device, group, train, val)
            if request.resume:
                job.look_around()
                if job.folder.trained.is_file():
                    return job.finish(job.trained(source), source, again=True)
            trainer = job.prepare(source)
            job.fit(trainer)
            job.keep(trainer, source, chosen.changed)
            return job.finish(trainer.evaluated, source, again=False)


def _open(request: RunRequest) -> tuple[ImageSet, ImageSet]:
    """Both splits, every image of which can be read; what is odd about them is shown."""
    section, folder = request.protocol.data, request.results / CHECKED
    workers = default_workers(request.workers)
    train, val = (
        checked(images, section, folder, workers, request.console)
        for images in open_splits(request.data, request.protocol)
    )
    sides = (
        f"{role} {images.split}: {counted(len(images), 'image')}"
        for role, images in (("training on", train), ("evaluating on", val))
    )
    say(request.console, f"{train.title}: {', '.join(sides)}")
    say_warnings(request.console, train, val)
    return train, val


@dataclass(frozen=True)
class _Job:
    """One process's part in a run: what `run` has opened, and what is done with it."""

    request: RunRequest
    spec: RunSpec
    store: ResultsStore
    device: torch.device
    group: Processes
    train: ImageSet
    val: ImageSet

    @property
    def folder(self) -> RunFolder:
        return self.store.folder(self.spec.run_id)

    @property
    def go_on(self) -> str:
        """The line that goes on with this run."""
        again = self.request.again or self.request.command
        return again if "--resume" in again.split() else f"{again} --resume"

    def look_around(self) -> None:
        """Where there is nothing of this run to go on from, look at unfinished runs like it and say what they are.

        A trained one that differs in the content of the validation split alone becomes this run.
        """
        store, spec = self.store, self.spec
        if self.group.main and not self.folder.trained.is_file() and self.folder.state is None:
            others = siblings(store, spec)
            alike = [run.run_id for run in others if run.step is None and trained_alike(run.question, spec.question)]
            if alike and completion.free(store, spec.run_id):
                with store.lock(alike[0]):
                    completion.relocate(store, load_pending(store, alike[0]), split_record(self.val))
                self._say(completion.renamed(alike[0], spec.run_id))
            elif other := nearest(others, spec):
                self._say(f"begins at step 1; {other.run_id} ({other.stands}) is another run: {other.differs(spec)}")
        self.group.wait()

    def trained(self, source: dict[str, Any]) -> FCOS:
        """The network of this run, which is trained and waits for its record."""
        pending = load_pending(self.store, self.spec.run_id)
        self._say("trained already; its record is to be completed")
        self._tell_earlier(pending.trained_by, source)
        return completion.restore_pending(self.store, pending, self.device).model.to(memory_format=torch.channels_last)

    def prepare(self, source: dict[str, Any]) -> Trainer:
        """The detector with its assigner, at the first step or where the last checkpoint left it."""
        request, spec, device = self.request, self.spec, self.device
        reset_peak_memory(device)
        model = build_detector(spec.protocol, len(self.train.classes), spec.seed)
        attach_assigner(model, spec.assigner, spec.options, spec.seed)
        if warning := share_statistics(model, self.group.world, device):
            self._say(f"warning: {warning}")
        model.to(device).to(memory_format=torch.channels_last)  # the layout that convolutions like best, on a CPU too
        trainer = Trainer(
            model, spec.protocol, spec.run_id, spec.seed, device, self.group, self.folder.checkpoint, self.folder.trace,
            self.train.name, request.checkpoint_seconds, request.data, spec.question,
        )  # fmt: skip
        if not request.resume and self.group.main:
            clear_pending(self.store, spec.run_id, allowed=request.restart)
            clear_checkpoint(trainer.checkpoint_folder, allowed=request.restart)
        if request.resume and (restored := trainer.resume()):
            if restored.damage:
                before = f"going on from the one before, at step {trainer.state.step}"
                self._say(f"warning: {restored.damage}; {before}")
            self._say(f"continuing at step {trainer.state.step}")
        elif not request.restart and (twin := find_twin(self.store, spec, trainer.state.initial_weights)):
            adopt(trainer, self.store, twin)
            self._say(f"trained as {twin.run_id}, which is evaluated otherwise; --restart trains again")
        note_code(trainer.state, source)
        self._tell_earlier(trainer.state.trained_by, source)
        trainer.state.command = self.go_on
        return trainer

    def fit(self, trainer: Trainer) -> None:
        """Train to the last step."""
        protocol = self.spec.protocol
        batches = train_batches(
            self.train, protocol, seed=self.spec.seed, start_step=trainer.state.step, rank=self.group.rank,
            world=self.group.world, workers=self.workers, pin=self.device.type == "cuda",
        )  # fmt: skip
        reporter = Reporter(self.console, protocol.schedule.steps, trainer.state.step, protocol.schedule.batch_size)

        def evaluate() -> dict[str, float | None]:
            with reporter.paused():
                detections, _ = self.detect(trainer.evaluated)
            return coco_metrics(self.val, detections) if self.group.main else {}

        try:
            trainer.fit(batches, reporter, evaluate)
        except StopRequested as stop:
            raise Interrupted(trainer.checkpoint_folder, trainer.state.command, stop.code) from None
        except UserError as error:
            state = last_state(self.folder)
            if state is None:
                raise
            kept = f"the training up to step {state['step']} is kept in {self.folder.path}"
            again = "go on" if isinstance(error, Unwritable) else "on the data as it was go on"
            raise UserError(f"{error}; {kept}, {again} with: {trainer.state.command}") from error
        except RuntimeError as error:
            at = f"at step {trainer.state.step}"
            if (how := loader_died(error)) is not None:
                raise RunFailed(f"a loading process died {at}{how}; {FEWER}, and go on with --resume") from error
            if not out_of_memory(error):
                raise
            raise RunFailed(
                f"out of memory on {self.device} {at}; lower schedule.batch_size or "
                "data.short_edge (another protocol), or free memory and go on with --resume"
            ) from error
        finally:
            reporter.close()

    def keep(self, trainer: Trainer, source: dict[str, Any], changed: dict[str, Any]) -> None:
        """Save the weights and all that the record needs besides the metrics: what follows may fail."""
        if not self.group.main:
            return
        spec, model = self.spec, trainer.evaluated
        about = completion.weights_header(spec, self.train.classes)
        save_network(self.folder.network, model.network_state(), about)
        if model.assigner is not None and (learnt := model.assigner.state_dict()):
            save_network(self.folder.assigner, learnt, about)
        record = unfinished_record(trainer, spec, changed, source, self.device, self.request.command)
        save_pending(self.store, Pending(record, self.request.data, trainer.state.trained_by))

    def finish(self, model: FCOS, source: dict[str, Any], *, again: bool) -> RunOutcome | None:
        """Evaluate, and write the record, its details and the leaderboard.

        Args:
            again: whether the run was trained by another process before.
        """
        self._say(f"evaluating {counted(len(self.val), 'image')}")
        command = completing(self.spec.run_id, self.request.data, self.request.results)
        with completion.training_kept(self.folder, command, self.go_on):
            detections, milliseconds = self.detect(model)
            if not self.group.main:
                return None
            measured = {"eval_ms_per_image": milliseconds}
            pending = load_pending(self.store, self.spec.run_id)
            if again:
                pending = completion.evaluated_on(pending, self.device)
            else:
                measured["peak_memory_mb"] = peak_memory_mb(self.device)  # of training and evaluation
            return completion.complete(self.store, pending, model, self.val, detections, measured, source, again=again)

    def detect(self, model: FCOS) -> tuple[list[Detections], float]:
        """Detections (on the main process) and milliseconds per image; progress is shown where there is a console."""
        return detect(model, self.val, self.spec.protocol, self.device, self.workers, self.group, self.console)

    @cached_property
    def workers(self) -> int:
        """Loading processes."""
        asked, protocol = self.request.workers, self.spec.protocol
        return loading_processes(asked, protocol, processes=self.group.world, console=self.console)

    @property
    def console(self) -> Console | None:
        """Where to speak: one process does."""
        return self.request.console if self.group.main else None

    def _tell_earlier(self, trained_by: list[dict[str, str | None]], source: dict[str, Any]) -> None:
        """Warn where other code trained."""
        if earlier := earlier_code(trained_by, source):
            code = f"trained so far by {', '.join(earlier)}; this is {source['commit'] or source['version']}"
            self._say(f"warning: {code}; the record will name both, --restart begins anew")

    def _say(self, text: str) -> None:
        say(self.console, text)
