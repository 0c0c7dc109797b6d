"""A run's twin: a finished one that differs in how it is evaluated alone, so that its weights stand for training again.

The paper's multi-scale rows are such runs: the same network, tested at thirteen sizes more.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

from harness.records.identity import RunSpec
from harness.records.lookup import RecordIndex
from harness.records.names import newest_attempts
from harness.records.schema import RunRecord
from harness.records.store import ResultsStore
from harness.runs.trained import weights_at_hand
from harness.training.checkpoint import load_network
from harness.training.trainer import Trainer

_COURSE = ("steps", "curve", "trained_as")  # of a record's progress: the rest are the losses of the last step


def find_twin(store: ResultsStore, spec: RunSpec, initial_weights: str | None) -> RunRecord | None:
    """The newest twin whose weights are at hand.

    Args:
        initial_weights: digest of the network before the first step; other code may begin elsewhere.
    """
    twins = [
        record
        for record in RecordIndex(newest_attempts(store.load_all()[0])).twins(spec)
        if record.equal.initial_weights == initial_weights and adoptable(store, record)
    ]
    return max(twins, key=lambda record: record.created, default=None)


def adoptable(store: ResultsStore, record: RunRecord) -> bool:
    """Whether all that a twin is to take from a run lies here: its weights and its trace."""
    return weights_at_hand(store, record) and store.folder(record.run_id).trace.exists()


def adopt(trainer: Trainer, store: ResultsStore, twin: RunRecord) -> None:
    """Put the trainer where the twin's training ended, with its weights, its trace and what it cost.

    Raises:
        UserError: if the weights are damaged.
    """
    folder, progress = store.folder(twin.run_id), twin.progress
    learnt = load_network(folder.assigner) if twin.cost.assigner_parameters else {}
    state = {**load_network(folder.network), **{f"assigner.{name}": value for name, value in learnt.items()}}
    for model in (trainer.model, trainer.evaluated):
        model.load_state_dict(state)
    trainer.trace_path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder.trace, trainer.trace_path)
    batches, source = twin.equal.batches, twin.source
    trainer.state = replace(
        trainer.state,
        step=progress["steps"],
        trace_bytes=trainer.trace_path.stat().st_size,
        seconds=twin.cost.train_s,
        curve=progress["curve"],
        batches=None if batches is None else int(batches, 16),
        trained_by=[
            {"commit": source.commit, "version": source.version, "torch": getattr(twin.environment, "torch", None)}
        ],
        trained_as=twin.run_id,
    )
    trainer.step_seconds.append(twin.cost.step_ms / 1000)
    trainer.latest = {name: value for name, value in progress.items() if name not in _COURSE}
