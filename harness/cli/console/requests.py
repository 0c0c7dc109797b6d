"""What verbs make of their words: the protocol, an option, and the commands that repeat a run here or anywhere."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console

from assigners import registry
from harness.core.again import DEFAULT_RESULTS
from harness.core.errors import UserError
from harness.data.sources import default_protocol
from harness.protocol.protocol import Protocol, load_protocol, portable_override

if TYPE_CHECKING:
    from harness.runs.run import RunRequest


@dataclass(frozen=True)
class Place:
    """What runs share besides assigner, seed and changes of the protocol: where and on what they are run."""

    data: str
    origin: str  # name or file of the protocol
    results: Path
    device: str
    threads: int | None
    workers: int | None
    screen: Console
    train_split: str | None = None
    val_split: str | None = None

    @property
    def elsewhere(self) -> list[str]:
        """The words that name the results, where they do not lie in the usual place."""
        return ["--results", str(self.results)] if self.results != DEFAULT_RESULTS else []

    def command(self, assigner: str, options: Mapping[str, object], overrides: Sequence[str], seed: int) -> str:
        """The line that repeats a run, for anyone: it names nothing of this machine."""
        origin = _portable_path(self.origin) if self.origin.endswith(".toml") else self.origin
        words = ["--data", portable(self.data), "--protocol", origin]
        return command_line(assigner, options, [*words, *map(portable_override, self._words(overrides, seed))])

    def command_here(
        self, assigner: str, options: Mapping[str, object], overrides: Sequence[str], seed: int, *more: str
    ) -> str:
        """The same in this very place, with `more` words."""
        words = ["--data", self.data, "--protocol", self.origin, *self._words(overrides, seed)]
        return command_line(assigner, options, [*words, *self.elsewhere, *more])

    def request(
        self,
        assigner: str,
        options: Mapping[str, object],
        protocol: Protocol,
        overrides: Sequence[str],
        seed: int,
        *,
        resume: bool = True,
        restart: bool = False,
    ) -> RunRequest:
        """What the engine is asked for."""
        from harness.runs.run import RunRequest

        return RunRequest(
            assigner=assigner, options=dict(options), data=self.data, protocol=protocol, seed=seed, device=self.device,
            threads=self.threads, workers=self.workers, resume=resume, restart=restart, results=self.results,
            command=self.command(assigner, options, overrides, seed),
            again=self.command_here(assigner, options, overrides, seed, "--resume"), console=self.screen,
        )  # fmt: skip

    def _words(self, overrides: Sequence[str], seed: int) -> list[str]:
        words = ["--seed", str(seed), *(word for override in overrides for word in ("--set", override))]
        splits = ("--train-split", self.train_split), ("--val-split", self.val_split)
        for flag, value in (*splits, ("--threads", self.threads)):
            words += [flag, str(value)] if value is not None else []
        return words + (["--device", self.device] if self.device != "auto" else [])


def again(ctx: click.Context, **changes: Any) -> str:
    """The command line as it was typed, with some flags changed."""
    words = ["harness", ctx.info_name or ""]
    for parameter in ctx.command.params:
        name = parameter.name or ""
        typed = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        value = changes[name] if name in changes else ctx.params[name] if typed else None
        if value is None or value is False:
            continue
        for entry in value if parameter.multiple else (value,):
            if isinstance(parameter, click.Argument):
                words.append(str(entry))
            else:
                words += [parameter.opts[-1]] if value is True else [parameter.opts[-1], str(entry)]
    return shlex.join(words)


def command_line(assigner: str, options: Mapping[str, object], words: Sequence[str]) -> str:
    """A command that repeats the run with as many processes, quoted for a shell."""
    chosen = [word for key, value in sorted(options.items()) for word in ("--option", f"{key}={value}")]
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    start, devices = ["harness"], ["--devices", str(processes)] if processes > 1 else []
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    if here < processes:  # on several machines
        start = ["torchrun", f"--nnodes={processes // here}", f"--nproc-per-node={here}", "-m", "harness.cli"]
        devices = []
    return shlex.join([*start, "run", "--assigner", assigner, *chosen, *words, *devices])


def portable(spec: str) -> str:
    """`spec` without anything of this machine: a path below the working directory, else the folder's own name."""
    kind, colon, where = spec.partition(":")
    return f"{kind}:{_portable_path(where)}" if colon else spec


def _portable_path(where: str) -> str:
    path = Path(os.path.abspath(where))  # symbolic links stay: what the user sees is what the command names
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.name


def choose_protocol(
    data: str, name: str | None, overrides: tuple[str, ...], train_split: str | None, val_split: str | None
) -> tuple[Protocol, str]:
    """The protocol (that of the kind of data where none is named), and the name or file it came from."""
    origin = name or default_protocol(data)
    protocol = load_protocol(origin, overrides)
    splits = {key: value for key, value in (("train_split", train_split), ("val_split", val_split)) if value}
    section = protocol.data.model_copy(update=splits)
    return protocol.model_copy(update={"data": section}), origin


def parse_pairs(texts: Iterable[str]) -> dict[str, str]:
    """The options of each ``--option key=value``."""
    options = {}
    for text in texts:
        key, equals, value = (word.strip() for word in text.partition("="))
        if not equals or not key:
            raise UserError(f"--option {text!r} is not of the form key=value, such as positives=8")
        options[key] = value
    return options


def chosen_assigner(text: str, pairs: Iterable[str] = ()) -> tuple[str, dict[str, str]]:
    """Name and options of ``name[key=value,...]`` and each ``--option key=value``, before torch is loaded.

    Raises:
        UserError, RegistryError: for a malformed text or an unknown name.
    """
    name, options = registry.parse_spec(text)
    options |= parse_pairs(pairs)
    registry.find(name)
    return name, options


def chosen_assigners(texts: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """Name and options of each text; of all registered assigners where there is none."""
    return [chosen_assigner(text) for text in texts] or [(entry.name, {}) for entry in registry.catalogue()]
