"""The report: one HTML file that needs nothing else, drawn from the results store.

The same store gives the same bytes. Everything that comes from data is escaped on its way into the page, and the page
forbids itself every connection and every script but its own.
"""

from __future__ import annotations

import re
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.report.content import Content, collect


def render(content: Content) -> str:
    """The page as one HTML text."""
    environment = Environment(
        loader=PackageLoader("harness.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": _breakable}
    package = files("harness.report")
    style, script = (Markup(package.joinpath(name).read_text("utf-8")) for name in ("style.css", "script.js"))
    return environment.get_template("report.html.j2").render(content=content, style=style, script=script)


def _breakable(words: str, after: str = "[,") -> Markup:
    """A name that may be broken after some of its characters."""
    parts = enumerate(re.split(f"([{re.escape(after)}])", words))
    return Markup("").join(Markup("{}<wbr>").format(part) if at % 2 else part for at, part in parts)


__all__ = ["Content", "collect", "render"]
