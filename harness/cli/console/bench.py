"""What the verbs below ``harness bench`` share: options, and the rows that they write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import torch

    from harness.bench.batches import Measurement
    from harness.bench.end_to_end import Beside
    from harness.bench.step import Share

device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="cpu", show_default=True, help="Where."
)
threads_option = click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the CPU.")

images_option = click.option(
    "--images", type=click.IntRange(min=1), default=2, show_default=True, help="In the batch."
)  # fmt: skip
boxes_option = click.option(
    "--boxes", type=click.IntRange(min=1), default=7, show_default=True, help="In each image."
)  # fmt: skip
classes_option = click.option(
    "--classes", type=click.IntRange(min=1), default=80, show_default=True, help="Of the detector."
)  # fmt: skip


def size_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """``--size``, height and width of the images."""
    return click.option(
        "--size", callback=_size, default=default, show_default=True, metavar="HxW", help="In px."
    )  # fmt: skip


def _size(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    """Height and width of ``800x1344``."""
    words = value.lower().split("x")
    if len(words) != 2 or not all(word.isascii() and word.isdigit() and int(word) >= 8 for word in words):
        raise click.BadParameter(f"{value!r} is no HEIGHTxWIDTH in pixels of at least 8, such as 800x1344")
    return int(words[0]), int(words[1])


def bench_environment(where: torch.device) -> dict[str, Any]:
    """The columns that say where a row was measured."""
    from harness.bench.measurements import ENVIRONMENT
    from harness.core.environment import environment, source_version

    machine = {**environment(where), **source_version()}
    return {name: machine[name] for name in ENVIRONMENT}


def record(path: Path, row: Measurement | Share | Beside, machine: dict[str, Any]) -> None:
    """Write a row, in the place of an older one of the same machine."""
    from harness.bench.measurements import merge, read_lines, to_line, write_lines

    kind = type(row)
    write_lines(path, merge(read_lines(path, kind), [to_line(row, machine)], kind), kind)
