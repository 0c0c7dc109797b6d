"""What a finished run left behind, ready for use: its detector, and its assigner as training left it."""

from __future__ import annotations

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

NETWORK_FILE = "network.safetensors"  # the evaluated network alone
ASSIGNER_FILE = "assigner.safetensors"  # the assigner's own parameters, where it has any


@dataclass(frozen=True)
class TrainedRun:
    """A run's detector.

    Attributes:
        record: of the run.
        protocol: of the run.
        classes: class names in the order of their ids.
        model: in evaluation mode, on the device; without an assigner unless it was asked for.
    """

    record: RunRecord
    protocol: Protocol
    classes: tuple[str, ...]
    model: FCOS

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
    classes = tuple(record.data.classes)
    network = load_network(_at_hand(store, record, NETWORK_FILE))
    model = build_detector(protocol, len(classes), record.seed, to_train=False)
    assigner = attach_assigner(model, record.assigner, record.options, record.seed)
    model.assigner = None
    _restore(model, network, store, record, NETWORK_FILE)
    if with_assigner:
        if assigner.state_dict():
            state = load_network(_at_hand(store, record, ASSIGNER_FILE))
            _restore(assigner, state, store, record, ASSIGNER_FILE)
        model.attach(assigner)
    return TrainedRun(record, protocol, classes, model.to(device).eval())


def weights_at_hand(store: ResultsStore, record: RunRecord) -> bool:
    """Whether the run's weights lie here, those of its assigner too where it learns any."""
    files = [NETWORK_FILE, *([ASSIGNER_FILE] if record.cost.assigner_parameters else [])]
    return all((store.work_dir(record.run_id) / name).exists() for name in files)


def newest_trained(store: ResultsStore) -> str:
    """The id of the newest run whose weights are at hand.

    Raises:
        UserError: if there is none.
    """
    records = [r for r in store.load_all()[0] if (store.work_dir(r.run_id) / NETWORK_FILE).exists()]
    if not records:
        again = aimed_at("harness run --assigner center", store.root)
        raise UserError(
            f"no run under {store.root} has its weights at hand; train one with: {again}, "
            "or name another --results directory"
        )
    return max(records, key=lambda record: record.created).run_id


def _at_hand(store: ResultsStore, record: RunRecord, name: str) -> Path:
    path = store.work_dir(record.run_id) / name
    if not path.exists():
        what = "weights" if name == NETWORK_FILE else "parameters of its assigner"
        raise UserError(
            f"run {record.run_id} has a record but no {what} at {path}; train it here with: "
            f"{aimed_at(record.command, store.root)}"
        )
    return path


def _restore(module: nn.Module, state: dict[str, Tensor], store: ResultsStore, record: RunRecord, name: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:  # torch lists every key
        path = store.work_dir(record.run_id) / name
        raise UserError(
            f"weights {path} are of another model than that of run {record.run_id} ({shorten(reason(error))}); "
            f"train it again with: {aimed_at(record.command, store.root)}"
        ) from error
