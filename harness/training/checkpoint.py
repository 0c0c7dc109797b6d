"""Checkpoints: folders that are there whole or not at all, without pickled code.

The last two are kept, ``checkpoint`` and ``checkpoint.old``: where the newest cannot be restored, a run goes on from
the one before. Weights are safetensors; the optimiser's state is read with ``weights_only``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from harness.core.device import out_of_memory
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
    files: dict[str, int] = field(default_factory=dict)  # CRC-32 of the checkpoint's other files, by name


@dataclass(frozen=True)
class Restored:
    """A checkpoint that was restored."""

    state: TrainState
    folder: Path
    damage: str  # what is wrong with the newest one where this is the one before; empty otherwise


class Damaged(UserError):  # noqa: N818
    """A file of a checkpoint that is missing, cut short or not what was written."""


def save_checkpoint(
    folder: Path,
    state: TrainState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: nn.Module | None,
    after: Path | None = None,
) -> None:
    """Write to a neighbour, sync, then put it in place of the last one, which becomes the one before.

    A kill at any moment leaves the last checkpoint whole.

    Args:
        after: the checkpoint that this training was restored from, at its first save. The one before stays then, and
            a newer one, which is damaged, makes room.
    """
    fresh, old = _beside(folder, ".new"), _beside(folder, ".old")
    with writing(folder):
        _discard(fresh)
    with _whole(fresh):
        fresh.mkdir(parents=True)
        state.files = {}
        for name, content in _contents(model, optimizer, ema):
            (fresh / name).write_bytes(content)
            state.files[name] = zlib.crc32(content)
        (fresh / "state.json").write_text(json.dumps(asdict(state)), "utf-8")
        for path in (*fresh.iterdir(), fresh):
            sync(path)
    with writing(folder):
        if after == old:
            _discard(folder)
        elif folder.exists():
            _discard(old)
            folder.rename(old)  # a kill right here leaves `.old` alone, which is taken then
        fresh.rename(folder)
        sync(folder.parent)


def find_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint, if any."""
    return next((place for place in _places(folder) if (place / "state.json").exists()), None)


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
    with writing(folder):
        for ending in (".new", ".old", ""):  # the newest last: a kill on the way leaves no older one to go on from
            _discard(_beside(folder, ending))


def restore_checkpoint(
    folder: Path, run_id: str, model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None
) -> Restored | None:
    """Restore everything in place from the last checkpoint, or the one before where that is damaged; None for none.

    Raises:
        UserError: if all that there is is damaged, or of another run.
    """
    faults: list[str] = []
    for place in _places(folder) if find_checkpoint(folder) is not None else ():
        if place.is_dir():
            try:
                return Restored(load_checkpoint(place, run_id, model, optimizer, ema), place, " and ".join(faults))
            except Damaged as error:
                faults.append(str(error))
    if faults:
        raise UserError(f"{' and '.join(faults)}; start the run anew with --restart")
    return None


def load_checkpoint(
    folder: Path, run_id: str, model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None
) -> TrainState:
    """Restore everything in place from this very folder; what is damaged may leave a part restored.

    Raises:
        Damaged: for a file that is missing or not what was written.
        UserError: for a checkpoint of another run.
    """
    with _intact(folder / "state.json") as path:
        saved = json.loads(path.read_text("utf-8"))
        # A version that took no digest, or counted nothing, leaves its steps unknown.
        state = TrainState(**{"batches": None, "beginning": None, **saved})
        known = dict(state.files)
    if state.run_id != run_id:
        raise UserError(f"checkpoint {folder} is of run {state.run_id}, not {run_id}")
    with _intact(folder / "model.safetensors") as path:
        model.load_state_dict(load(_content(path, known)))
    if ema is not None:
        with _intact(folder / "ema.safetensors") as path:
            ema.load_state_dict(load(_content(path, known)))
    with _intact(folder / "optimizer.pt") as path:
        content = BytesIO(_content(path, known))
        optimizer.load_state_dict(torch.load(content, weights_only=True, map_location="cpu"))
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


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


def _places(folder: Path) -> tuple[Path, Path]:
    """Where the last checkpoint lies, and the one before; the second alone where a kill hit between two renames."""
    return folder, _beside(folder, ".old")


def _discard(folder: Path) -> None:
    # Without its state it is no checkpoint: a kill on the way leaves none that only seems whole.
    with suppress(FileNotFoundError, NotADirectoryError):
        (folder / "state.json").unlink()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _intact(path: Path) -> Iterator[Path]:
    """Say in one line which file of a checkpoint is damaged."""
    try:
        yield path
    except DAMAGE as error:
        if out_of_memory(error):
            raise
        raise Damaged(f"checkpoint {path} cannot be restored ({shorten(reason(error))})") from error


def _content(path: Path, known: Mapping[str, int]) -> bytes:
    content = path.read_bytes()
    if known.get(path.name, digest := zlib.crc32(content)) != digest:  # an older version took none
        raise ValueError("its content is not what was written")
    return content


def _contents(
    model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module | None
) -> Iterator[tuple[str, bytes | memoryview]]:
    """The files of a checkpoint besides its state, one at a time: together they take much memory."""
    yield "model.safetensors", save(_plain(model.state_dict()))
    if ema is not None:
        yield "ema.safetensors", save(_plain(ema.state_dict()))
    content = BytesIO()  # to a file, torch.save hides a full disk behind an error of its own
    torch.save(optimizer.state_dict(), content)
    yield "optimizer.pt", content.getbuffer()


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
