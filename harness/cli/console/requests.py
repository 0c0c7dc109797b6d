"""What verbs make of their words: the protocol, an option, and the commands that repeat a run here or anywhere."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.core.errors import UserError
from harness.data.sources import default_protocol
from harness.protocol.protocol import Protocol, load_protocol


def command_line(assigner: str, options: Mapping[str, object], words: Sequence[str]) -> str:
    """A command that repeats the run, quoted for a shell."""
    chosen = [word for key, value in sorted(options.items()) for word in ("--option", f"{key}={value}")]
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    start = ["harness"] if processes == 1 else ["torchrun", f"--nproc-per-node={processes}", "-m", "harness.cli"]
    return shlex.join([*start, "run", "--assigner", assigner, *chosen, *words])


def portable(spec: str) -> str:
    """`spec` without anything of this machine: a path below the working directory, else the folder's own name."""
    kind, colon, where = spec.partition(":")
    return f"{kind}:{_portable_path(where)}" if colon else spec


def _portable_path(where: str) -> str:
    path = Path(os.path.abspath(where))  # symbolic links stay: what the user sees is what the command names
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.name


def portable_protocol(origin: str) -> str:
    """The name or file of a protocol, likewise."""
    return _portable_path(origin) if origin.endswith(".toml") else origin


def choose_protocol(
    data: str, name: str | None, overrides: tuple[str, ...], train_split: str | None, val_split: str | None
) -> tuple[Protocol, str]:
    """The protocol (that of the kind of data where none is named), and the name or file it came from."""
    origin = name or default_protocol(data)
    protocol = load_protocol(origin, overrides)
    splits = {key: value for key, value in (("train_split", train_split), ("val_split", val_split)) if value}
    section = protocol.data.model_copy(update=splits)
    return protocol.model_copy(update={"data": section}), origin


def parse_pair(text: str) -> tuple[str, str]:
    """Key and value of an option ``key=value``."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--option {text!r} is not of the form key=value, such as positives=8")
    return key.strip(), value.strip()
