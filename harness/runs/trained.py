"""What a finished run left behind, ready for use: its detector, and its assigner as training left it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from detector import FCOS
from harness.core.again import aimed_at
from harness.core.errors import UserError, reason, shorten
from harness.protocol.protocol import Protocol
from harness.records.inputs import recorded_protocol
from harness.records.schema import RunRecord
from harness.records.store import ResultsStore
from harness.training.build import attach_assigner, build_detector
from harness.training.checkpoint import load_network


@dataclass(frozen=True)
class TrainedRun:
    """A run's detector."""

    record: RunRecord
    protocol: Protocol
    classes: tuple[str, ...]  # names in the order of their ids
    model: FCOS  # in evaluation mode, on the device; without an assigner unless it was asked for

    @property
    def run_id(self) -> str:
        """Id of the run whose detector it is."""
        return self.record.run_id


def load_trained(store: ResultsStore, run_id: str, device: torch.device, *, with_assigner: bool = False) -> TrainedRun:
    """Build a run's detector and read its weights.

    Args:
        run_id: or an unambiguous beginning of it.
        with_assigner: keep the run's assigner, with the parameters that it learnt.

    Raises:
        UserError: if the run is unknown, or its weights are missing, damaged or of another model.
    """
    return restore_trained(store, store.find(run_id), device, with_assigner=with_assigner)


def restore_trained(
    store: ResultsStore, record: RunRecord, device: torch.device, *, with_assigner: bool = False
) -> TrainedRun:
    """The same for a record at hand, be it one that is still to be completed (`harness.records.pending`).

    Raises:
        UserError: if its weights are missing, damaged or of another model.
    """
    protocol = recorded_protocol(record, store.root)
    classes, folder = tuple(record.data.classes), store.folder(record.run_id)
    network = _read(folder.network, "weights", store, record)
    model = build_detector(protocol, len(classes), record.seed, to_train=False)
    assigner = attach_assigner(model, record.assigner, record.options, record.seed)
    model.assigner = None
    _restore(model, network, folder.network, store, record)
    if with_assigner:
        if assigner.state_dict():
            learnt = _read(folder.assigner, "parameters of its assigner", store, record)
            _restore(assigner, learnt, folder.assigner, store, record)
        model.attach(assigner)
    return TrainedRun(record, protocol, classes, model.to(device).eval())


def weights_at_hand(store: ResultsStore, record: RunRecord) -> bool:
    """Whether the run's weights lie here, those of its assigner too where it learns any."""
    folder = store.folder(record.run_id)
    return folder.network.exists() and (not record.cost.assigner_parameters or folder.assigner.exists())


def newest_trained(store: ResultsStore, assigners: Sequence[str] = ()) -> str:
    """The id of the newest run whose weights are at hand.

    Args:
        assigners: of one of these, by name; none for any.

    Raises:
        UserError: if there is none.
    """
    records = [
        record
        for record in store.load_all()[0]
        if record.assigner in (assigners or (record.assigner,)) and store.folder(record.run_id).network.exists()
    ]
    if not records:
        of = f" of {' or '.join(assigners)}" if assigners else ""
        again = aimed_at(f"harness run --assigner {assigners[0] if assigners else 'center'}", store.root)
        raise UserError(
            f"no run{of} under {store.root} has its weights at hand; train one with: {again}, "
            "or name another --results directory"
        )
    return max(records, key=lambda record: record.created).run_id


def _read(path: Path, what: str, store: ResultsStore, record: RunRecord) -> dict[str, Tensor]:
    if not path.exists():
        raise UserError(
            f"run {record.run_id} has a record but no {what} at {path}; train it here with: "
            f"{aimed_at(record.command, store.root)}"
        )
    return load_network(path)


def _restore(module: nn.Module, state: dict[str, Tensor], path: Path, store: ResultsStore, record: RunRecord) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:  # torch lists every key
        raise UserError(
            f"weights {path} are of another model than that of run {record.run_id} ({shorten(reason(error))}); "
            f"train it again with: {aimed_at(record.command, store.root)}"
        ) from error
