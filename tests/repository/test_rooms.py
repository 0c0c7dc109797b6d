"""The order of the rooms: who may import whom, and a catalogue that answers without torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runs import environment

REPOSITORY = Path(__file__).resolve().parents[2]

# From the ground up: a room may import what lies on a lower floor, nothing beside or above it.
FLOORS = (
    ("assigners", "harness.core"),
    ("detector", "harness.drawing", "harness.verify"),
    ("harness.protocol",),
    ("harness.data",),
    ("harness.evaluation", "harness.inspection", "harness.training"),
    ("harness.bench", "harness.records"),
    ("harness.comparison", "harness.doctor", "harness.runs"),
    ("harness.analysis", "harness.sweeps"),
    ("harness.paper", "harness.report"),
    ("harness.cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PACKAGES = ("assigners", "detector", "harness")
FOREIGN = {"assigners": {"torch"}, "detector": {"torch", "torchvision", "timm"}}  # besides the standard library
MODULE = re.compile(r"(assigners|detector|harness|tests)(\.\w+)+")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def assert_runs(code: str) -> None:
    """In a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def files(package: str) -> list[Path]:
    found = sorted((REPOSITORY / package).rglob("*.py"))
    assert found
    return found


def named(path: Path) -> set[str]:
    """Every module that stands in a string of a file by itself, as those that are imported by name do."""
    strings = (node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant))
    return {
        text.partition(":")[0] for text in strings if isinstance(text, str) and MODULE.fullmatch(text.partition(":")[0])
    }


def room(module: str) -> str:
    """Of a module: the package, or the folder of the harness that it lies in."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "harness" and len(parts) > 1 else parts[0]


def arrows() -> Iterator[tuple[Path, str, str]]:
    """File, its room, and a room that it reaches for; within a room all is open."""
    for package in PACKAGES:
        for path in files(package):
            own = room(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
            for other in {room(name) for name in imported(path) | named(path)}:
                if other in FLOOR and other != own:
                    yield path, own, other


def test_every_folder_has_a_floor_and_no_module_lies_about():
    rooms = {
        f"harness.{path.name}"
        for path in (REPOSITORY / "harness").iterdir()
        if path.is_dir() and any(path.rglob("*.py"))
    }
    assert rooms == {name for name in FLOOR if name.startswith("harness.")}
    assert {path.name for path in (REPOSITORY / "harness").glob("*.py")} == {"__init__.py", "__main__.py"}
    assert len(list((REPOSITORY / "assigners").glob("*.py"))) <= 4


def test_imports_go_down():
    up = [
        f"{path.relative_to(REPOSITORY)}: {own} reaches for {other}"
        for path, own, other in arrows()
        if own != "harness.__main__" and FLOOR[own] <= FLOOR[other]
    ]
    assert not up


@pytest.mark.parametrize("package", sorted(FOREIGN))
def test_a_package_imports_only_what_it_may(package):
    allowed = FOREIGN[package] | {*PACKAGES}
    for path in files(package):
        foreign = {name.partition(".")[0] for name in imported(path)} - sys.stdlib_module_names
        assert foreign <= allowed, path


def test_no_product_imports_tests():
    for package in PACKAGES:
        for path in files(package):
            assert not any(name.partition(".")[0] == "tests" for name in imported(path) | named(path)), path


@pytest.mark.parametrize("module", ["assigners", "assigners.registry", "harness.data", "harness.cli"])
def test_listing_needs_no_torch(module):
    code = (
        f"import sys, {module}, assigners\n"
        "assert {'center', 'atss', 'iqdet'} <= {e.name for e in assigners.catalogue()}\n"
        "heavy = {'torch', 'torchvision', 'timm', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert_runs(code)


def test_commands_are_thin():
    """Parse, call a service, show: forty lines below the documentation."""
    for path in sorted((REPOSITORY / "harness" / "cli").glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and "command" in "".join(map(ast.unparse, node.decorator_list)):
                first = node.body[1] if ast.get_docstring(node) else node.body[0]
                lines = (node.end_lineno or 0) - first.lineno + 1
                assert lines <= 40, f"{path}: {node.name} has {lines} lines"


def test_help_loads_no_verb():
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from harness.cli import VERBS, main\n"
        "shown = CliRunner().invoke(main, ['--help']).output\n"
        "assert all(verb in shown for verb in VERBS)\n"
        "loaded = [verb for verb in VERBS if f'harness.cli.{verb}' in sys.modules]\n"
        "assert not loaded, loaded"
    )
    assert_runs(code)


def test_an_adapter_needs_nothing_of_the_detector_it_is_for():
    code = (
        "import sys, assigners.adapters.torchvision_fcos\n"
        "foreign = {'torchvision', 'timm', 'detector', 'harness'} & set(sys.modules)\n"
        "assert not foreign, foreign"
    )
    assert_runs(code)


def test_the_contract_is_reached_through_the_package():
    import assigners
    from assigners import contract

    assert assigners.Assigner is contract.Assigner
    assert assigners.Grid is contract.Grid
    assert assigners.assign.__module__ == "assigners.adapters.plain"
    for name in assigners.__all__:
        assert getattr(assigners, name) is not None
    with pytest.raises(AttributeError, match="Asigner"):
        _ = assigners.Asigner
