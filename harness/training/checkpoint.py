"""Checkpoints: a folder that is there whole or not at all, without pickled code.

Weights are safetensors; the optimiser's state is read with ``weights_only``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from harness.core.errors import UserError, reason, shorten, writing
from harness.core.files import DAMAGE, sync
from harness.training.beginning import unseen


@dataclass
class TrainState:
    """Where a run stands, besides tensors."""

    run_id: str  # a checkpoint of another one is refused
    step: int = 0  # steps done
    trace_bytes: int = 0  # length of the metrics trace at this step; what lies beyond is written again
    seconds: float = 0.0  # of training so far
    step_seconds: list[float] = field(default_factory=list)  # the latest step times
    curve: dict[str, dict[str, float | None]] = field(default_factory=dict)  # evaluations so far, by step
    initial_weights: str | None = None  # digest of the detector before the first step
    batches: int | None = 0  # digest of all batches so far, this process's share
    # The code that did these steps, in the order in which each came to them: what
    # `harness.core.environment.source_version` says of it, and the version of torch.
    trained_by: list[dict[str, str | None]] = field(default_factory=list)
    trained_as: str | None = None  # the run whose training stands for this one's (`harness.runs.reuse`)
    command: str = ""  # the line that goes on from here
    question: dict[str, Any] | None = None  # `RunSpec.question`; None where an older version took no note
    latest: dict[str, dict[str, float]] = field(default_factory=dict)  # losses and statistics of the last step
    # What `harness.training.beginning` counts over the first steps; None where it did not from the start.
    beginning: dict[str, float] | None = field(default_factory=unseen)


def save_checkpoint(
    folder: Path, state: TrainState, model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None
) -> None:
    """Write to a neighbour, sync, then put it in place of the last one."""
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        old.rename(folder)  # a kill between the renames below left it: the only checkpoint until this one is written
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    with _whole(fresh):
        fresh.mkdir(parents=True)
        (fresh / "model.safetensors").write_bytes(save(_plain(model.state_dict())))
        if ema is not None:
            (fresh / "ema.safetensors").write_bytes(save(_plain(ema.state_dict())))
        content = BytesIO()  # to a file, torch.save hides a full disk behind an error of its own
        torch.save(optimizer.state_dict(), content)
        (fresh / "optimizer.pt").write_bytes(content.getbuffer())
        (fresh / "state.json").write_text(json.dumps(asdict(state)), "utf-8")
        for path in (*fresh.iterdir(), fresh):
            sync(path)
    if folder.exists():
        folder.rename(old)  # a kill right here leaves `.old`, which `find_checkpoint` takes
    fresh.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def find_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint, if any."""
    candidates = (folder, folder.with_name(folder.name + ".old"))
    return next((candidate for candidate in candidates if (candidate / "state.json").exists()), None)


def clear_checkpoint(folder: Path, *, allowed: bool) -> None:
    """Make room for a run that begins anew; an interrupted one is not thrown away unasked.

    Raises:
        UserError: if there is a checkpoint and it may not be cleared.
    """
    path = find_checkpoint(folder)
    if path is not None and not allowed:
        raise UserError(
            f"an unfinished run of this very kind lies at {path}: add --resume to go on, or --restart to begin anew"
        )
    for ending in ("", ".old", ".new"):
        shutil.rmtree(folder.with_name(folder.name + ending), ignore_errors=True)


def load_checkpoint(
    folder: Path, run_id: str, model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None
) -> TrainState:
    """Restore everything in place.

    Raises:
        UserError: for a checkpoint that is damaged or of another run.
    """
    try:
        saved = json.loads((folder / "state.json").read_text("utf-8"))
        # A version that took no digest, or counted nothing, leaves its steps unknown.
        state = TrainState(**{"batches": None, "beginning": None, **saved})
        if state.run_id != run_id:
            raise UserError(f"checkpoint {folder} is of run {state.run_id}, not {run_id}")
        model.load_state_dict(load_file(folder / "model.safetensors"))
        if ema is not None:
            ema.load_state_dict(load_file(folder / "ema.safetensors"))
        optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu"))
    except DAMAGE as error:
        raise UserError(
            f"checkpoint {folder} cannot be restored ({shorten(reason(error))}); start the run anew with --restart"
        ) from error
    return state


def note_code(state: TrainState, source: Mapping[str, str | None]) -> None:
    """Note that this code trains from here on.

    Args:
        source: what `harness.core.environment.source_version` gives.
    """
    now = _with_torch(source)
    if not state.trained_by and state.step:
        state.trained_by.append({})  # a checkpoint of a version that took no note
    if now not in state.trained_by:
        state.trained_by.append(now)


def earlier_code(trained_by: Sequence[Mapping[str, str | None]], source: Mapping[str, str | None]) -> list[str]:
    """The code other than this among what `note_code` noted: its commit, and torch's version where that differs."""
    now = _with_torch(source)
    return [_named(code, now) for code in trained_by if code != now]


def _with_torch(source: Mapping[str, str | None]) -> dict[str, str | None]:
    return {**source, "torch": str(torch.__version__)}


def _named(code: Mapping[str, str | None], now: Mapping[str, str | None]) -> str:
    if not code:
        return "an earlier version"  # which took no note of its commit
    name = code.get("commit") or f"version {code.get('version')}"
    return name if code.get("torch") == now["torch"] else f"{name} with torch {code.get('torch')}"


def weights_digest(network: Mapping[str, Tensor]) -> str:
    """Twelve hex digits of the SHA-256 of all tensors by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def save_network(path: Path, network: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write the evaluated network's weights, with what is needed to build it again in their header."""
    temporary = path.with_suffix(".tmp")
    with _whole(temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(save(_plain(network), metadata={"about": json.dumps(about, sort_keys=True)}))
        sync(temporary)
        temporary.replace(path)


def load_network(path: Path) -> dict[str, Tensor]:
    """Read what `save_network` wrote.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        network: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights {path} cannot be read ({reason(error)}); train the run again") from error
    return network


def _plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors wants contiguous tensors that share no memory.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Leave nothing of the file or folder `path` behind if it cannot be written entirely."""
    try:
        with writing(path):
            yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        if path.is_file():
            path.unlink()
        raise
