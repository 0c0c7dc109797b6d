"""What the verbs below ``harness bench`` share: options, and the rows that they write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.console.options import Decorated, Decorator, json_option, option, results_option

if TYPE_CHECKING:
    import torch

    from harness.bench.batches import Measurement
    from harness.bench.end_to_end import Beside
    from harness.bench.step import Share

DEVICES, COUNT = click.Choice(["auto", "cpu", "cuda"]), click.IntRange(min=1)

images_option = option("--images", type=COUNT, default=2, help="In the batch.")
boxes_option = option("--boxes", type=COUNT, default=7, help="In each image.")
classes_option = option("--classes", type=COUNT, default=80, help="Of the detector.")


@dataclass(frozen=True)
class Setting:
    """Where a verb measures, and where it leaves what it measured."""

    size: tuple[int, int]  # height and width of the images in px
    device: str
    threads: int
    results: Path
    as_json: bool

    @contextmanager
    def computing(self) -> Iterator[tuple[torch.device, dict[str, Any]]]:
        """The device, and the columns that say where a row was measured."""
        from harness.bench.measurements import ENVIRONMENT
        from harness.core.device import computing, pick_device
        from harness.core.environment import environment, source_version

        where = pick_device(self.device)
        with computing(where, self.threads):
            machine = {**environment(where), **source_version()}
            yield where, {name: machine[name] for name in ENVIRONMENT}


def setting_options(size: str) -> Decorator:
    """The options of a `Setting`, which the command is given as one argument."""

    def decorate(function: Decorated) -> Decorated:
        @wraps(function)
        def command(**values: Any) -> None:
            function(setting=Setting(**{field.name: values.pop(field.name) for field in fields(Setting)}), **values)

        complete: Decorated = command
        for add in (
            json_option,
            results_option,
            option("--threads", type=COUNT, default=1, help="Of the CPU."),
            option("--device", type=DEVICES, default="cpu", help="Where."),
            size_option(size),
        ):  # the last one added is listed first
            complete = add(complete)
        return complete

    return decorate


def size_option(default: str) -> Decorator:
    """``--size``, height and width of the images."""
    return option("--size", callback=_size, default=default, metavar="HxW", help="In px.")


def _size(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    """Height and width of ``800x1344``."""
    words = value.lower().split("x")
    if len(words) != 2 or not all(word.isascii() and word.isdigit() and int(word) >= 8 for word in words):
        raise click.BadParameter(f"{value!r} is no HEIGHTxWIDTH in pixels of at least 8, such as 800x1344")
    return int(words[0]), int(words[1])


def record(path: Path, row: Measurement | Share | Beside, machine: dict[str, Any]) -> None:
    """Write a row, in the place of an older one of the same machine."""
    from harness.bench.measurements import merge, read_lines, to_line, write_lines

    kind = type(row)
    write_lines(path, merge(read_lines(path, kind), [to_line(row, machine)], kind), kind)
