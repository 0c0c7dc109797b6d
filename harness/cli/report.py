"""``harness report``: everything that the records say, in one HTML file that needs no network."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.console.options import FILE, json_option, results_option
from harness.cli.console.output import console, emit, first_process, say, say_left_out
from harness.core.errors import UserError
from harness.core.files import write_atomically
from harness.records.store import ResultsStore


@click.command("report")
@click.option("--output", type=FILE, metavar="FILE.html", help="[default: RESULTS/report.html]")
@click.option("--pictures/--no-pictures", default=True, help="What each assigner takes from two images, or not.")
@click.option("--open", "opened", is_flag=True, help="Show it in the browser.")
@results_option
@json_option
def command(output: Path | None, pictures: bool, opened: bool, results: Path, as_json: bool) -> None:
    """Write one HTML file with every board: intervals and rank groups, gaps, costs, curves, mistakes, provenance.

    The file holds all it needs: it opens without a network, in light and dark, on paper and by keyboard. The same
    results give the same file.

    \b
    Examples:
      harness report
      harness report --open
      harness report --results elsewhere --output board.html --no-pictures
    """
    screen = console(as_json, files=True)
    target = output or results / "report.html"
    if target.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output {target} must end in .html")

    from harness.report import collect, render

    content = collect(ResultsStore(results), pictures=pictures)
    say_left_out(content.problems)
    page = render(content)
    if not first_process():
        return
    write_atomically(target, page)
    size = len(page.encode())
    say(screen, f"wrote {target}: {content.subtitle}, {size / 1e6:.1f} MB")
    if as_json:
        boards = [
            {"title": section.title, "kind": section.kind, "headline": section.headline} for section in content.sections
        ]
        emit({"output": str(target), "bytes": size, "boards": boards, "left_out": list(content.problems)})
    if opened and click.launch(target.absolute().as_uri()) != 0:
        raise UserError(f"no browser could be started; open {target} by hand")
