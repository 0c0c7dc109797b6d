"""Options that several verbs take, each declared once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from harness.core.again import DEFAULT_RESULTS

Decorated = Callable[..., Any]
Decorator = Callable[[Decorated], Decorated]
option = partial(click.option, show_default=True)  # a default is told
FILE, FOLDER = click.Path(dir_okay=False, path_type=Path), click.Path(file_okay=False, path_type=Path)

results_option: Decorator = option(
    "--results",
    type=FOLDER,
    default=DEFAULT_RESULTS,
    show_default="./results",
    help="Directory of records and working files.",
)
json_option: Decorator = option(
    "--json", "as_json", is_flag=True, help="Machine-readable on standard output, the rest on standard error."
)
device_option: Decorator = option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")


def machine_options(function: Decorated) -> Decorated:
    """Give a command ``--device``, ``--threads`` and ``--workers``: what trains with what of this machine."""
    for add in (
        option("--workers", type=click.IntRange(min=0), help="Processes that load images; no result changes."),
        option("--threads", type=click.IntRange(min=1), help="CPU threads of torch; results depend on it."),
        device_option,
    ):  # the last one added is listed first
        function = add(function)
    return function


def set_option(example: str) -> Decorator:
    """``--set KEY=V``, for each change of a protocol; the example is of one that is usual for the verb."""
    return option("--set", "overrides", multiple=True, metavar="KEY=V", help=f"Change the protocol: {example}.")


def workers_option(what: str) -> Decorator:
    """``--workers N``, of a verb that trains nothing: processes that do what is said."""
    return option("--workers", type=click.IntRange(min=0), help=f"Processes that {what}.")
