"""The command line: one file per verb, which is loaded when it is called.

The rule for imports within functions, here and in the verbs: what needs torch is imported where the work begins, after
the words were looked at, so that help, lists and mistakes answer at once. All else stands at the top of its file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from assigners.registry import RegistryError
from harness.cli.console.output import Stopped
from harness.cli.console.streams import ended, unbreakable
from harness.core.errors import (
    Interrupted,
    RunFailed,
    UserError,
    did_you_mean,
    is_text,
    no_text,
    of_the_locale,
    reason,
    shorten,
)
from harness.core.stopping import at_once, exit_code

# What each verb is for. Its module is loaded where it is called and for its own help, so that nothing waits for all.
VERBS = {
    "run": "Train, evaluate and record one assigner.",
    "sweep": "Several assigners and seeds under one protocol.",
    "table": "A table of the paper: plan it, run it, put it beside the paper's.",
    "figure": "Figures 4 and 5 of the paper, from runs of one's own.",
    "eval": "Evaluate the saved weights of a run again.",
    "compare": "What is between two assigners, with its interval.",
    "insight": "Ask all assigners about the same frozen predictions.",
    "predict": "Detect objects in images and draw them.",
    "inspect": "Draw an assigner's samples; tell why a box has no positive.",
    "verify": "Do assigners keep the contract, and match published answers?",
    "leaderboard": "Every run so far, best first.",
    "report": "One offline HTML page: boards, intervals, costs, pictures.",
    "bench": "What does an assigner cost, in time and memory?",
    "ls": "Assigners, protocols, data sets, runs.",
    "data": "What is in a data set, what is odd, and its boxes on a sheet.",
    "doctor": "What is in the way of a run here, and what to do?",
}


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise  # prints the help
    except (click.UsageError, UserError, RegistryError, RunFailed) as error:
        text = error.format_message() if isinstance(error, click.UsageError) else str(error)
        line = " ".join(text.split("\n")).strip()
        code = 1 if isinstance(error, RunFailed) else 2
        raise Stopped(f"error: {line}", code, getattr(error, "speaks", None)) from error
    except Interrupted as stop:
        raise Stopped(f"interrupted; checkpoint: {stop.path}\ngo on with: {stop.command}", stop.code) from stop
    except UnicodeEncodeError as error:
        if not of_the_locale(error):
            raise
        raise Stopped(f"error: {reason(error)}", 2) from error
    except KeyboardInterrupt as stop:
        raise Stopped("interrupted", exit_code(stop)) from stop


def _somewhere() -> bool:
    """Whether the working directory is there."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


class Verbs(click.Group):
    """A group whose verbs end in one line and an exit code where the user or the run is at fault.

    0 fine, 1 the run failed by itself, 2 the user's mistake, 75 stopped by a scheduler (to be started again), 130
    interrupted. Anything else is a bug and keeps its traceback.
    """

    def main(self, *args: Any, **extra: Any) -> Any:  # type: ignore[override]
        """Run the command line as a program; whatever happens to standard output, a verb does its work."""
        with at_once(), unbreakable() as out:
            try:
                return super().main(*args, **extra)
            except SystemExit as end:
                raise SystemExit(ended(out, end.code)) from None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options before the verb."""
        with _in_one_line():
            for word in args:
                if not is_text(word):
                    raise UserError(f"argument {shorten(word)!r} {no_text()}")
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a mistake of the user's ends in one line."""
        with _in_one_line():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs."""
        return [*VERBS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb of this name."""
        if cmd_name not in VERBS:
            return None
        verb = import_module(f"harness.cli.{cmd_name}").command
        assert isinstance(verb, click.Command)
        return verb

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs with what they are for, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([*VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or suggest the nearest."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            raise UserError(f"unknown verb {args[0]!r}{did_you_mean(args[0], known)}; verbs: {', '.join(known)}")
        if not _somewhere() and not {"-h", "--help"} & {*args}:  # there, libraries of torch end the process
            raise UserError("the working directory has been deleted; change to another")
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="assigner-zoo", message="%(prog)s %(version)s")
def main() -> None:
    """One detector, one protocol, every label assigner: does it help, by how much, at what cost?

    \b
    Examples:
      harness ls                           what there is
      harness run --assigner iqdet         train and evaluate on the embedded data, a few minutes
      harness run --assigner atss --data voc:VOCdevkit/VOC2007
      harness sweep -a atss,paa,iqdet --seeds 3 --dry-run
      harness table 4                      a table of the paper: its numbers, ours, a verdict
      harness predict shapes:3             detections drawn over an image
      harness inspect --assigner atss      an assigner's samples drawn over an image
      harness insight                      all assigners on the same frozen predictions
      harness verify my_assigner.py        does it keep the contract?
      harness leaderboard                  every run so far, best first
      harness report                       all of it on one page, with intervals
      harness bench assigners --quick      time and memory of each assigner
      harness data voc:mine                what is in a data set, and what is odd about it
      harness doctor                       what is in the way of a run here?
    """
