"""Assigners of other packages, through the entry-point group."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
import torch

import assigners
from assigners import registry
from assigners.contract import Assigner, HeadInfo
from assigners.rules.center import CenterSampling
from detector import FCOS
from harness.core.errors import UserError
from tests.support.runs import request, run, small_protocol

HERE = "tests.repository.test_plugins"


class Everywhere(Assigner):
    """The plugin: what `center` says, with half the weight, after a reach that it learns by itself."""

    def __init__(self, head: HeadInfo, *, share: float = 0.5, wide: bool = False) -> None:
        super().__init__()
        self.rule = CenterSampling(head, radius=2.5 if wide else 1.5)
        self.share = torch.nn.Parameter(torch.tensor(share))

    def forward(self, grid, targets, predictions, step):
        assignment = self.rule(grid, targets, predictions, step)
        samples = assignment.samples
        weighted = type(samples)(**{**vars(samples), "class_weight": samples.class_weight * self.share})
        return type(assignment)(weighted, assignment.negative_weight)


class Unrelated:
    """Not an assigner."""


@pytest.fixture
def plugins(monkeypatch):
    """Pretend that these entry points are installed: name -> "module:Class"."""

    def install(**targets):
        points = [EntryPoint(name.rstrip("_"), value, registry.ENTRY_POINT_GROUP) for name, value in targets.items()]

        def entry_points(*, group):
            assert group == registry.ENTRY_POINT_GROUP
            return points

        monkeypatch.setattr(registry, "entry_points", entry_points)
        registry._plugins.cache_clear()

    return install


def test_installed_packages_are_looked_through_once(monkeypatch):
    looks = []

    def entry_points(*, group):
        looks.append(group)
        return [EntryPoint("everywhere", f"{HERE}:Everywhere", group)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert assigners.catalogue()[-1].name == "everywhere"  # installed before the first use
    assert assigners.create("everywhere", HeadInfo(3, 8)) is not None
    with pytest.raises(assigners.UnknownName):
        assigners.create("everywere", HeadInfo(3, 8))
    assert len(looks) == 1


def test_a_plugin_is_listed_created_and_told_its_options(plugins):
    plugins(everywhere=f"{HERE}:Everywhere")
    names = [entry.name for entry in assigners.catalogue()]
    assert names[-1] == "everywhere"
    assert {"center", "atss", "iqdet"} < set(names)
    made = assigners.create("everywhere", HeadInfo(3, 8), share="0.25", wide="true")
    assert isinstance(made, Everywhere)
    assert made.options == {"share": 0.25, "wide": True}
    with pytest.raises(assigners.UnknownName, match="did you mean 'share'"):
        assigners.create("everywhere", HeadInfo(3, 8), shar=1)
    with pytest.raises(assigners.UnknownName, match="did you mean 'everywhere'"):
        assigners.create("everywere", HeadInfo(3, 8))


def test_listing_does_not_import_the_plugin(plugins):
    plugins(broken="no_such_module:Nothing")
    assert assigners.catalogue()[-1].target == "no_such_module:Nothing"
    assert assigners.create("center", HeadInfo(3, 8)) is not None
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        assigners.create("broken", HeadInfo(3, 8))


def test_a_plugin_trains_with_its_own_parameters(plugins):
    plugins(everywhere=f"{HERE}:Everywhere")
    torch.manual_seed(0)
    model = FCOS(2, backbone="test_resnet", channels=8, head_depth=1)
    model.attach(assigners.create("everywhere", model.head_info))
    target = {"boxes": torch.tensor([[4.0, 6.0, 40.0, 50.0]]), "labels": torch.tensor([1])}
    losses = model([torch.zeros(3, 64, 64, dtype=torch.uint8)], [target])
    torch.stack(list(losses.values())).sum().backward()
    assert model.assigner.share.grad is not None
    assert not any(key.startswith("assigner") for key in model.network_state())


def test_a_plugin_runs_end_to_end(plugins, tmp_path):
    plugins(everywhere=f"{HERE}:Everywhere")
    asked = request(tmp_path, "everywhere", small_protocol(schedule={"steps": 2}), options={"wide": "true"})
    record = run(asked).record
    assert record.assigner == "everywhere"
    assert record.changed_options == {"wide": True}
    assert record.cost.assigner_parameters == 1


def test_a_clash_raises_on_use_alone(plugins):
    plugins(center=f"{HERE}:Everywhere", twice=f"{HERE}:Everywhere", twice_=f"{HERE}:Unrelated")
    assert [entry.name for entry in assigners.catalogue()].count("center") == 2
    assert assigners.create("atss", HeadInfo(3, 8)) is not None
    with pytest.raises(
        assigners.NameClash, match=r"'center' is claimed by assigners\.rules\.center:CenterSampling and"
    ):
        assigners.create("center", HeadInfo(3, 8))
    with pytest.raises(assigners.NameClash, match=f"{HERE}:Everywhere and {HERE}:Unrelated"):
        assigners.create("twice", HeadInfo(3, 8))


def test_a_clash_is_the_users_mistake_in_a_run(plugins, tmp_path):
    plugins(center=f"{HERE}:Everywhere")
    with pytest.raises(UserError, match="uninstall or rename one"):
        run(request(tmp_path, "center"))


def test_what_is_no_assigner_is_refused(plugins):
    plugins(unrelated=f"{HERE}:Unrelated", function=f"{HERE}:test_what_is_no_assigner_is_refused")
    for name in ("unrelated", "function"):
        with pytest.raises(TypeError, match=f"assigner '{name}': {HERE}:.* is not a subclass of assigners.Assigner"):
            assigners.create(name, HeadInfo(3, 8))
