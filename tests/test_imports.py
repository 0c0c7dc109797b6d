"""Who may import whom: assigners < detector < harness, and a catalogue that answers without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.runs import environment

REPOSITORY = Path(__file__).resolve().parent.parent
ALLOWED = {
    "assigners": {"assigners", "torch"},
    "detector": {"assigners", "detector", "torch", "torchvision", "timm"},
}


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


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_lies_below_it(package):
    for path in files(package):
        foreign = {name.partition(".")[0] for name in imported(path)} - sys.stdlib_module_names
        assert foreign <= ALLOWED[package], path


def test_no_assigner_knows_another_packages_tests_or_the_harness():
    for package in ("assigners", "detector", "harness"):
        for path in files(package):
            assert not any(name.partition(".")[0] == "tests" for name in imported(path)), path


@pytest.mark.parametrize("module", ["assigners", "assigners.registry", "harness.data", "harness.cli"])
def test_listing_needs_no_torch(module):
    code = (
        f"import sys, {module}, assigners\n"
        "assert {'center', 'atss', 'iqdet'} <= {e.name for e in assigners.catalogue()}\n"
        "heavy = {'torch', 'torchvision', 'timm', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
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
