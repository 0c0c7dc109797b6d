"""Python, packages, the code itself, and optional tools."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from harness.core.environment import source_version
from harness.core.errors import reason, shorten
from harness.doctor.rows import Finding

DISTRIBUTION = "assigner-zoo"
IMPORTS = (
    "torch", "torchvision", "timm", "numpy", "scipy", "pandas", "PIL.Image", "pycocotools.mask", "safetensors.torch",
)  # fmt: skip  # those with compiled parts
BROWSERS = ("chromium", "google-chrome", "chromium-browser")


def packages() -> Iterator[Finding]:
    """Python and the packages, against the lower bounds that this distribution asks for."""
    try:
        about, needed = metadata.metadata(DISTRIBUTION), metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield Finding(
            "packages", "warning", f"{DISTRIBUTION} is not installed: no bounds to hold them to", "pip install ."
        )
        return
    python, least = ".".join(map(str, sys.version_info[:3])), about["Requires-Python"].removeprefix(">=")
    if reaches(python, least):
        yield Finding("Python", "ok", f"{python}, {sys.executable}")
    else:
        yield Finding("Python", "problem", f"{python}, older than {least}", f"make an environment with Python {least}")
    enough = []
    for name, bound in filter(None, map(_lower_bound, needed)):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(name, "problem", "not installed", f"pip install '{name}>={bound}'")
            continue
        if reaches(version, bound):
            enough.append(f"{name} {version}")
        else:
            yield Finding(name, "problem", f"{version}, older than {bound}", f"pip install --upgrade '{name}>={bound}'")
    yield Finding("packages", "ok", f"at their lower bounds or above: {', '.join(enough)}")


def _lower_bound(requirement: str) -> tuple[str, str] | None:
    """Name and lower bound of a requirement; None for one of an optional group."""
    asked = Requirement(requirement)
    bounds = [each.version for each in asked.specifier if each.operator == ">="]
    return None if "extra" in str(asked.marker) else (asked.name, bounds[0] if bounds else "0")


def reaches(version: str, bound: str) -> bool:
    """Whether a version is at a lower bound or above, releases in the making included: 2.11.0rc1+cpu is 2.11."""
    try:
        return Version(Version(version).base_version) >= Version(bound)
    except InvalidVersion:
        return False


def imports() -> Iterator[Finding]:
    """Installed is not usable: compiled parts must fit one another and this machine."""
    broken = []
    for name in IMPORTS:
        try:
            import_module(name)
        except Exception as error:  # what a compiled module raises is up to it
            package = name.partition(".")[0]
            broken.append(name)
            detail = f"{type(error).__name__}: {shorten(reason(error))}"
            yield Finding(f"import {package}", "problem", detail, f"install {package} in a build that fits the others")
    if not broken:
        yield Finding("imports", "ok", f"{len(IMPORTS)} packages with compiled parts load")


def source() -> Iterator[Finding]:
    """The code that runs, as a record would name it."""
    code = source_version()
    commit = code["commit"]
    if commit is None:
        detail = f"version {code['version']}, outside a git checkout: records name no commit"
        yield Finding("source", "warning", detail, "install a checkout (pip install -e .) for records that do")
    elif commit.endswith("+dirty"):
        detail = f"commit {commit}: the packages differ from it, and a record cannot say how"
        yield Finding("source", "warning", detail, "commit before a run whose record is to be kept")
    else:
        yield Finding("source", "ok", f"commit {commit}")


def tools() -> Iterator[Finding]:
    """What single verbs and tests use where it is there."""
    starter = shutil.which("torchrun") or shutil.which("torchrun", path=str(Path(sys.executable).parent))
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    charts = metadata.version("matplotlib") if find_spec("matplotlib") is not None else None
    for what, detail, missing, advice in (
        ("torchrun", starter, "not found; runs on several machines start with it",
         "python -m torch.distributed.run does the same"),
        ("browser", browser, "no Chromium; the test that opens the report is skipped", "install the package chromium"),
        ("matplotlib", charts, "not found; charts are drawn by it", "pip install 'assigner-zoo[plots]'"),
    ):  # fmt: skip
        yield Finding(what, "warning", missing, advice) if detail is None else Finding(what, "ok", detail)
