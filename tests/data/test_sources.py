"""Data sources by name: what is found, what is claimed twice, what needs a folder."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from harness.core.errors import UserError
from harness.data import open_data, sources
from harness.data.sources import ENTRY_POINT_GROUP, default_protocol, find_source, needs_folder
from harness.protocol.protocol import DataSection
from harness.records.inputs import data_spec
from tests.support.fakes import MemorySet, objects

HERE = "tests.data.test_sources"


def opened(asked):
    """The plugin's reader."""
    made = MemorySet([objects()] * (asked.limit or 5), split=asked.split or asked.role)
    made.title = f"{asked.folder} beside {asked.other}"
    return made


@pytest.fixture
def plugins(monkeypatch):
    def install(**targets):
        points = tuple(EntryPoint(name, target, ENTRY_POINT_GROUP) for name, target in targets.items())
        monkeypatch.setattr(sources, "_plugins", lambda: points)

    return install


def test_a_plugin_reads_what_it_is_asked(plugins):
    plugins(memory=f"{HERE}:opened")
    images = open_data("memory:here", DataSection(train_split="a", val_split="b", val_images=3), role="val")
    assert (images.title, images.split, len(images)) == ("here beside a", "b", 3)
    assert len(open_data("memory:here", DataSection(), role="train")) == 5
    with pytest.raises(UserError, match="has its own classes"):
        open_data("memory:here", DataSection(classes=("a",)), role="train")


def test_a_name_of_two_sources_raises_on_use_alone(plugins):
    plugins(coco=f"{HERE}:opened")
    assert find_source("voc:DIR").name == "voc"
    with pytest.raises(UserError, match=r"'coco' is claimed by harness\.data\.readers\.coco:open_source and tests"):
        find_source("coco:DIR")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cocoa:DIR", "did you mean 'coco'"),
        ("shapes:DIR", "use one of shapes, coco:DIR"),
        ("voc", "use one of"),
        ("", "use"),
    ],
)
def test_what_is_no_source_is_refused(spec, message):
    with pytest.raises(UserError, match=message):
        find_source(spec)


def test_defaults_of_a_source(plugins):
    plugins(memory=f"{HERE}:opened")
    specs = ("shapes", "coco:DIR", "memory:DIR", "unknown:DIR")
    assert [default_protocol(spec) for spec in specs] == ["shapes-cpu", "small", "small", "small"]
    assert [needs_folder(name) for name in ("shapes", "coco", "memory", "unknown")] == [False, True, True, True]


def test_records_name_what_they_need():
    def record(kind):
        return SimpleNamespace(run_id="r", data=SimpleNamespace(kind=kind, title="mine"))

    assert data_spec(record("shapes"), None) == "shapes"
    assert data_spec(record("coco"), "coco:there") == "coco:there"
    with pytest.raises(UserError, match="run r used mine, and records hold no paths; give --data coco:DIR"):
        data_spec(record("coco"), None)
