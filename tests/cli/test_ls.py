"""``harness ls`` of assigners: what their sources and the bibliography say, and that they say it of everything."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from assigners.contract import Declares, HeadInfo
from assigners.registry import CatalogueEntry, RegistryError, catalogue, create, find, load, option_defaults
from assigners.registry.bibliography import cited, fields, papers
from assigners.registry.description import describe
from harness.cli import main

NAMES = [entry.name for entry in catalogue() if entry.cite]

OWN = '''
"""Nearest: the nearest few.

It is quick.

Departures from the authors' code, each deliberate:
* first, which goes on
  for two lines;
* second.
Something else after the list.
"""

from base_rule import Base, Choice


class Nearest(Base):
    """Nearest.

    Args:
        head: of the detector.
        count, spare: see `Base`.
        pick: how,
            over lines.

    Raises:
        ValueError: never.
    """

    def __init__(self, head, *, count: int = MANY, spare: float | None = None, pick: Choice = "a", mute: bool = False):
        self.declares = replace(type(self).declares, nms=not mute)
'''
BASE = '''
from typing import Literal
from assigners import Assigner
from assigners.contract import Declares, Needs

Choice = Literal["a", "b"]
raise RuntimeError("nobody imports this")


class Base(Assigner):
    """Base.

    Args:
        count: how many.
        spare: beside them.
    """

    needs = Needs(predictions=True, grads=True, features=False)
    declares = Declares(replaces=frozenset({"class", "box"}))
'''


def ls(*words):
    result = CliRunner().invoke(main, ["ls", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def own(tmp_path, monkeypatch) -> CatalogueEntry:
    (tmp_path / "own_rule.py").write_text(OWN.replace("\nclass", "\nMANY = 9\n\n\nclass", 1), "utf-8")
    (tmp_path / "base_rule.py").write_text(BASE, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    from assigners.registry import description as described

    described._source.cache_clear()
    return CatalogueEntry("own", "Own", "", None, "own_rule:Nearest")


@pytest.mark.parametrize("name", NAMES)
class TestEveryBuiltIn:
    def test_its_paper_is_in_the_bibliography_with_the_year_of_the_catalogue(self, name):
        entry = find(name)
        told = fields(papers()[entry.cite])
        assert told["author"]
        assert told["title"]
        assert told["booktitle" if "booktitle" in told else "journal"]
        assert told["year"] == str(entry.year)
        family = re.split(r" and | et al\.", entry.paper)[0]
        assert told["author"].startswith(family), "the catalogue names the first author"

    def test_every_option_is_described_as_it_is(self, name):
        options = {option.name: option for option in describe(find(name)).options}
        defaults = option_defaults(name)
        assert list(options) == list(defaults)
        for key, option in options.items():
            assert option.meaning, f"{name}.{key}: the class docstring's Args do not say what it is"
            assert option.kind
            shown = option.default if isinstance(defaults[key], str) else eval(option.default, {})
            assert shown == defaults[key]

    def test_needs_and_declarations_are_those_of_the_class(self, name):
        kind, told = load(name), describe(find(name))
        assert told.needs == [need for need in ("predictions", "grads", "features") if getattr(kind.needs, need)]
        usual, made = Declares(), create(name, HeadInfo(5, 4)).declares
        changed = {key for key in vars(usual) if getattr(made, key) != getattr(usual, key)}
        assert changed <= told.declares.keys()
        if made.replaces:
            assert told.declares["replaces"] == "|".join(sorted(made.replaces))

    def test_its_rule_is_told(self, name):
        told = describe(find(name))
        assert told.rule
        assert not any(paragraph.startswith("Departures") for paragraph in told.rule)


def test_no_entry_of_the_bibliography_is_unused_or_read_wrongly():
    assert papers().keys() == {entry.cite for entry in catalogue() if entry.cite}
    text = (Path(__file__).resolve().parents[2] / "assigners" / "registry" / "papers.bib").read_text("utf-8")
    assert text.split() == "\n\n".join(papers().values()).split()


def test_a_description_is_read_from_sources_alone(own):
    told = describe(own)
    assert told.rule == ["Nearest: the nearest few.", "It is quick."]
    assert told.departures == ["first, which goes on for two lines;", "second."]
    assert told.needs == ["predictions", "grads"]
    assert told.declares == {"replaces": "box|class", "nms": "not mute"}
    assert [(o.name, o.kind, o.default, o.meaning) for o in told.options] == [
        ("count", "int", "9", "how many."),
        ("spare", "float | None", "None", "beside them."),
        ("pick", "a | b", "a", "how, over lines."),
        ("mute", "bool", "False", ""),
    ]


def test_a_class_that_is_not_there_is_named(own):
    for target in ("own_rule:Farthest", "no_such_module:Nearest", "math:Nearest"):
        with pytest.raises(RegistryError, match="assigner 'own': no class"):
            describe(CatalogueEntry("own", "Own", "", None, target))


def test_an_assigner_is_shown_with_options_and_departures():
    shown = ls("paa").stdout
    for word in (
        "Kim and Lee, ECCV, 2020",
        "score_voting",
        "the paper's K",
        "needs: predictions",
        "without the authors' +1",
    ):
        assert word in shown
    told = json.loads(ls("paa", "--json").stdout)
    assert told["options"][0] == {
        "name": "topk", "kind": "int", "default": "9", "meaning": "candidates per box and level, the paper's K.",
    }  # fmt: skip
    assert len(told["departures"]) == 3
    assert told["bibtex"].startswith("@inproceedings{kim2020paa,")


def test_several_things_at_once():
    told = json.loads(ls("atss", "protocols", "--json").stdout)
    assert list(told) == ["atss", "protocols"]
    shown = ls("atss", "center").stdout
    assert "the paper's k" in shown
    assert "half side of the sampling square" in shown


def test_bibtex_of_all_and_of_some_each_once():
    assert ls("--bibtex").stdout.count("@") == len(papers())
    some = ls("--bibtex", "qd", "atss", "iqdet").stdout
    assert re.findall(r"@\w+\{(\w+),", some) == ["ma2021iqdet", "zhang2020atss"]
    assert papers()["zhang2020atss"] in some
    assert json.loads(ls("--bibtex", "paa", "--json").stdout) == {"kim2020paa": papers()["kim2020paa"]}


def test_an_assigner_without_a_paper(monkeypatch):
    from assigners.registry import bibliography

    monkeypatch.setattr(bibliography, "find", lambda name: CatalogueEntry(name, "", "", None, ""))
    with pytest.raises(RegistryError, match="'own' names no paper"):
        cited(["own"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["iqdett"], "cannot list 'iqdett', did you mean 'iqdet'?"),
        (["atss", "assigner"], "cannot list 'assigner', did you mean 'assigners'?"),
        (["--bibtex", "atsss"], "did you mean 'atss'"),
    ],
)
def test_a_mistake_is_one_line(words, message):
    result = ls(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("words", [["iqdet"], ["--bibtex"], ["atss", "free_anchor", "--json"]])
def test_nothing_of_it_imports_torch(tmp_path, words):
    for name in ("torch", "torchvision", "pandas"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name} was imported')\n")
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(root)))}
    command = [sys.executable, "-m", "harness.cli", "ls", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
