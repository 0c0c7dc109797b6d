"""The training loop: one step after another, and nothing that waits for the device inside a step."""

from __future__ import annotations

import json
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from assigners.contract import Step, Targets, Term
from detector import FCOS, ImageBatch
from harness.core.distributed import Processes
from harness.core.errors import RunFailed, UserError, writing
from harness.core.progress import Reporter
from harness.core.stopping import between_steps
from harness.data.loader import Batch
from harness.protocol.protocol import Protocol
from harness.training.beginning import WATCHED, count, expect_something_to_learn
from harness.training.build import build_optimizer, derived_seed, ema_decay, learning_rate
from harness.training.checkpoint import Restored, TrainState, restore_checkpoint, save_checkpoint, weights_digest
from harness.training.step import descend, precision

TRACE_LINES = 2000  # of steps that are logged, per run, at most
KEPT_STEP_TIMES = 1000  # the median step time is over the latest of them


class StopRequested(Exception):  # noqa: N818
    """A signal, taken at the end of a step.

    Attributes:
        code: to exit with.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class _Pending:
    """A step whose numbers are still on their way to the host."""

    step: int
    logged: bool
    losses: tuple[str, ...]
    statistics: tuple[str, ...]
    values: Tensor  # losses, statistics' sums, their counts, and last the non-finite flag
    images: tuple[int, ...]
    arrived: torch.cuda.Event | None


class _Learning(nn.Module):
    """What processes do together: `FCOS.learn`, as the forward pass that they synchronise."""

    def __init__(self, detector: FCOS) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: ImageBatch, targets: Targets, step: Step) -> tuple[dict[str, Tensor], dict[str, Term]]:
        return self.detector.learn(images, targets, step)


@dataclass
class Trainer:
    """Trains a detector with its assigner and keeps its checkpoints and trace."""

    model: FCOS  # with an assigner attached, on `device`
    protocol: Protocol
    run_id: str
    seed: int
    device: torch.device
    group: Processes
    checkpoint_folder: Path
    trace_path: Path
    name_of: Callable[[int], str]  # names the image at a position of the training set, for messages
    checkpoint_seconds: float = 30.0  # between checkpoints
    source: str = "SPEC"  # of the data, as ``--data`` takes it, for messages
    question: dict[str, Any] | None = None  # what the run's id is the hash of, for its checkpoints
    state: TrainState = field(init=False)
    latest: dict[str, dict[str, float]] = field(default_factory=dict)  # losses and statistics of the last logged step

    def __post_init__(self) -> None:
        schedule = self.protocol.schedule
        digest = weights_digest(self.model.network_state())
        self.state = TrainState(self.run_id, initial_weights=digest, question=self.question)
        self.optimizer = build_optimizer(schedule, self.model)
        self.ema = AveragedModel(self.model, use_buffers=True) if schedule.ema else None
        self.learning: nn.Module = _Learning(self.model)
        self.trace_every = max(1, schedule.steps // TRACE_LINES)
        self.step_seconds: deque[float] = deque(maxlen=KEPT_STEP_TIMES)
        self._restored_from: Path | None = None  # a checkpoint; none is saved since

    @property
    def evaluated(self) -> FCOS:
        """The network to evaluate: the average if there is one."""
        if self.ema is not None:
            assert isinstance(self.ema.module, FCOS)
            return self.ema.module
        return self.model

    def resume(self) -> Restored | None:
        """Go back to the last checkpoint that can be restored, if there is one."""
        restored = restore_checkpoint(self.checkpoint_folder, self.run_id, self.model, self.optimizer, self.ema)
        if restored is not None:
            self._restored_from = restored.folder
            self.state = restored.state
            self.step_seconds.extend(self.state.step_seconds)
            self.latest = self.state.latest
            self.state.question = self.question
        return restored

    def fit(
        self, batches: Iterator[Batch], reporter: Reporter, evaluate: Callable[[], dict[str, float | None]]
    ) -> None:
        """Train from the current step to the last.

        Args:
            batches: from the current step on.
            reporter: shows progress.
            evaluate: scores the network while training, where the protocol asks for it.

        Raises:
            RunFailed: on a non-finite loss or gradient (the parameters keep their last finite values), or if the first
                steps had nothing to learn from.
            StopRequested: after a signal; a checkpoint has been saved.
            UserError: for an image that can no longer be read, with a checkpoint saved; or a place that takes no file.
        """
        every = self.protocol.evaluation.every
        pending: _Pending | None = None
        begun, faults, last_saved = self.state.step, list[UserError](), perf_counter()
        self.model.train()
        with self._parallel(), self._trace() as trace, between_steps(self.group.main) as asked:
            start = perf_counter()
            for batch in _until_fault(batches, faults):
                step = self.state.step
                logged = step % self.trace_every == 0 or step + 1 == self.protocol.schedule.steps
                sent = self._step(batch, step, logged)
                if pending is not None:
                    self._receive(pending, trace, reporter)
                pending = sent
                self.state.step = step + 1
                if self.state.batches is not None:
                    self.state.batches = zlib.crc32(batch.digest.to_bytes(4), self.state.batches)
                now = perf_counter()
                self.step_seconds.append(now - start)
                self.state.seconds += now - start
                start = now
                due = now - last_saved > self.checkpoint_seconds
                evaluating = (
                    bool(every) and self.state.step % every == 0 < self.protocol.schedule.steps - self.state.step
                )
                code = asked()
                if code or due or evaluating:
                    self._receive(pending, trace, reporter)  # nothing non-finite may reach a checkpoint
                    pending = None
                    if evaluating:
                        self.state.curve[str(self.state.step)] = evaluate()
                    self._save(trace)
                    if code := code or asked():
                        raise StopRequested(code)
                    last_saved = start = perf_counter()
            if pending is not None:
                self._receive(pending, trace, reporter)
            if not faults or self.state.step > begun:
                self._save(trace)
            if faults:
                raise faults[0]

    def _step(self, batch: Batch, step: int, logged: bool) -> _Pending:
        schedule = self.protocol.schedule
        # Dropout and the like, where a backbone has them, become a function of (seed, step) too.
        torch.manual_seed(derived_seed(self.seed, "step", step, self.group.rank))
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(schedule, step)
        pixels = batch.images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        with precision(schedule, self.device):
            losses, statistics = self.learning(
                ImageBatch(pixels, tuple(batch.sizes)), batch.targets, Step(self.seed, step, step / schedule.steps)
            )
        broken = descend(losses, self.model, self.optimizer, schedule)
        if self.ema is not None:
            # Of the step, which the host knows: torch's own count comes as a tensor on the device. The first is a copy.
            self.ema.multi_avg_fn = get_ema_multi_avg_fn(ema_decay(schedule, step))
            self.ema.update_parameters(self.model)
        return self._send(step, losses, statistics, broken, tuple(batch.indices), logged)

    def _send(
        self,
        step: int,
        losses: dict[str, Tensor],
        statistics: dict[str, Term],
        broken: Tensor,
        images: tuple[int, ...],
        logged: bool,
    ) -> _Pending:
        """Start the copy of a step's numbers to the host; they are read one step later."""
        sums = [total.detach().float() for total, _ in statistics.values()]
        counts = [count.detach().float() for _, count in statistics.values()]
        values = torch.stack([*(loss.detach() for loss in losses.values()), *sums, *counts])
        if self.group.world > 1 and (logged or step < WATCHED):
            dist.all_reduce(values)
            values[: len(losses)] /= self.group.world
        values = torch.cat((values, broken[None]))
        arrived = None
        if self.device.type == "cuda":
            values = values.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        return _Pending(step, logged, tuple(losses), tuple(statistics), values, images, arrived)

    def _receive(self, pending: _Pending, trace: Any, reporter: Reporter) -> None:
        if pending.arrived is not None:
            pending.arrived.synchronize()
        values = pending.values.tolist()
        losses = dict(zip(pending.losses, values, strict=False))
        if values[-1]:
            named = ", ".join(self.name_of(index) for index in pending.images)
            shown = ", ".join(f"{name} {value:g}" for name, value in losses.items())
            raise RunFailed(
                f"non-finite loss or gradient at step {pending.step} ({shown}) on images {named}; "
                "lower schedule.lr or set schedule.clip_norm, or look at these images"
            )
        names, first = pending.statistics, len(losses)
        sums = dict(zip(names, values[first:], strict=False))
        counts = dict(zip(names, values[first + len(names) :], strict=False))
        statistics = {name: sums[name] / counts[name] if counts[name] else 0.0 for name in names}
        self.latest = {"losses": losses, "statistics": statistics}
        reporter.update(pending.step + 1, losses, statistics)
        if trace is not None and pending.logged:
            line = {"step": pending.step, "lr": learning_rate(self.protocol.schedule, pending.step), **self.latest}
            with writing(self.trace_path):
                trace.write(json.dumps(line) + "\n")
        self._watch(pending.step, sums, counts)

    def _watch(self, step: int, sums: dict[str, float], counts: dict[str, float]) -> None:
        """Count what the first steps learn from; all processes have the same numbers and stop together."""
        seen, watched = self.state.beginning, min(WATCHED, self.protocol.schedule.steps)
        if seen is None or step >= watched:
            return
        assigner = self.model.assigner
        count(seen, sums, counts, assigner.declares.replaces if assigner is not None else frozenset())
        if step + 1 == watched:
            expect_something_to_learn(seen, watched, self.protocol.data.short_edge, self.source)

    def _save(self, trace: Any) -> None:
        if not self.group.main:
            return
        with writing(self.trace_path):
            trace.flush()
            os.fsync(trace.fileno())
            self.state.trace_bytes = trace.tell()
        self.state.step_seconds = list(self.step_seconds)
        self.state.latest = self.latest
        after, self._restored_from = self._restored_from, None
        save_checkpoint(self.checkpoint_folder, self.state, self.model, self.optimizer, self.ema, after)

    @contextmanager
    def _parallel(self) -> Iterator[None]:
        """Processes average their gradients here and nowhere else.

        The wrapper keeps the group's threads alive: one that is left when Python ends may abort the process.
        """
        if self.group.world == 1:
            yield
            return
        alone = self.learning
        ids = [self.device.index] if self.device.type == "cuda" else None
        self.learning = nn.parallel.DistributedDataParallel(alone, device_ids=ids)
        try:
            yield
        finally:
            self.learning = alone

    @contextmanager
    def _trace(self) -> Iterator[Any]:
        """The metrics file, cut back to what the checkpoint knows; None on other processes than the main one."""
        if not self.group.main:
            yield None
            return
        with writing(self.trace_path):
            self.trace_path.parent.mkdir(parents=True, exist_ok=True)
            trace = self.trace_path.open("a", encoding="utf-8")
        try:
            with writing(self.trace_path):
                trace.truncate(self.state.trace_bytes)
                trace.seek(0, os.SEEK_END)
            yield trace
        finally:
            with writing(self.trace_path):
                trace.close()
                if self.trace_path.stat().st_size == 0:  # stopped before the first step: nothing to leave behind
                    self.trace_path.unlink()


def _until_fault(batches: Iterator[Batch], faults: list[UserError]) -> Iterator[Batch]:
    """The batches before the first that cannot be loaded; why not is noted."""
    try:
        yield from batches
    except UserError as error:
        faults.append(error)
