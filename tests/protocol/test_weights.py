"""Weights from a local file: what is read, what is refused in one line, and what the protocol's hash holds of it."""

from __future__ import annotations

import os
import pickle
import shutil

import pytest
import timm
import torch
from safetensors.torch import save_file

from harness.core.errors import UserError
from harness.protocol.protocol import Protocol, load_protocol
from harness.protocol.weights import file_digest, read_weights
from harness.records.inputs import recorded_protocol
from harness.runs.run import run
from harness.runs.trained import load_trained
from harness.training.build import build_detector
from tests.support.runs import request, small_protocol


def timm_state(name="test_resnet", seed=3):
    torch.manual_seed(seed)
    state = timm.create_model(name, pretrained=False).state_dict()
    return {key: value.clone() for key, value in state.items()}


def start_from(path, **model) -> Protocol:
    return small_protocol(model={"weights": str(path), **model})


def body_of(detector):
    return detector.backbone.body.state_dict()


@pytest.fixture
def saved(tmp_path):
    """timm's test_resnet with its classifier, as safetensors."""
    path = tmp_path / "weights.safetensors"
    save_file(timm_state(), path)
    return path


def refused(path, match, **model):
    with pytest.raises(UserError, match=match) as caught:
        build_detector(start_from(path, **model), 3, 0)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("form", ["safetensors", "torch", "legacy", "state_dict", "model"])
def test_every_form_of_a_file_gives_the_same_backbone(tmp_path, form):
    state, path = timm_state(), tmp_path / "weights.bin"
    if form == "safetensors":
        save_file(state, path)
    else:
        wrapped = {form: state, "epoch": 3} if form in ("state_dict", "model") else state
        torch.save(wrapped, path, _use_new_zipfile_serialization=form != "legacy")
    found = body_of(build_detector(start_from(path), 3, 0))
    assert all(torch.equal(value, state[key]) for key, value in found.items() if "num_batches" not in key)


def test_the_pyramid_and_the_head_begin_as_ever(saved):
    fresh, started = (build_detector(protocol, 3, 0) for protocol in (small_protocol(), start_from(saved)))
    rest = {k for k in fresh.state_dict() if not k.startswith("backbone.body.")}
    assert all(torch.equal(fresh.state_dict()[key], started.state_dict()[key]) for key in rest)
    assert any(not torch.equal(fresh.state_dict()[key], started.state_dict()[key]) for key in fresh.state_dict())


def test_names_that_timm_flattens_for_features_fit(tmp_path):
    state, path = timm_state("test_convnext"), tmp_path / "weights.pt"
    assert any(key.startswith("stages.0") for key in state)
    torch.save(state, path)
    found = body_of(build_detector(start_from(path, backbone="test_convnext"), 3, 0))
    assert any(key.startswith("stages_0") for key in found)
    for key, value in found.items():
        assert torch.equal(value, state[key.replace("stages_", "stages.").replace("stem_", "stem.")])


@pytest.mark.parametrize("model", [{}, {"frozen_bn": True}, {"deformable_stages": [4]}])
def test_a_whole_detector_gives_its_backbone(tmp_path, model):
    protocol = small_protocol(model=model)
    other, path = build_detector(protocol, 7, 5), tmp_path / "network.safetensors"
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.01
    save_file(other.network_state(), path)
    found = body_of(build_detector(start_from(path, **model), 3, 0))
    assert found.keys() == body_of(other).keys()
    assert all(torch.equal(value, body_of(other)[key]) for key, value in found.items())


def test_plain_weights_start_a_deformable_backbone(tmp_path):
    state, path = timm_state(), tmp_path / "weights.pt"
    torch.save(state, path)
    found = body_of(build_detector(start_from(path, deformable_stages=[4], frozen_bn=True), 3, 0))
    steering = {key: value for key, value in found.items() if ".offset." in key}
    assert len(steering) == 2
    assert not any(value.any() for value in steering.values())
    assert all(torch.equal(value, state[key]) for key, value in found.items() if key not in steering)


def test_missing_unknown_and_misshapen_tensors_are_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    state = timm_state()
    for change, match in (
        ({"layer1.0.conv1.weight": None}, "'test_resnet': they lack 'layer1.0.conv1.weight'"),
        ({"layer1.0.conv1.weight": None, "bn1.bias": None}, "they lack 'bn1.bias' and 1 more"),
        ({"layer9.weight": torch.zeros(2)}, "they hold, unknown to it, 'layer9.weight'"),
        ({"bn1.bias": torch.zeros(5)}, r"'bn1.bias' has shape \[5\], not \[\d+\]"),
        ({"fc.weight": torch.zeros(7, 3)}, None),  # another classifier: none is wanted
    ):
        changed = {key: value for key, value in {**state, **change}.items() if value is not None}
        save_file(changed, path)
        if match is None:
            build_detector(start_from(path), 3, 0)
        else:
            refused(path, match)


def test_weights_of_a_deeper_network_are_not_taken_for_those_of_a_shallower(tmp_path):
    path = tmp_path / "weights.pt"
    with torch.device("meta"):
        deep = timm.create_model("resnet34", pretrained=False).state_dict()
    torch.save({key: torch.zeros(value.shape, dtype=torch.float16) for key, value in deep.items()}, path)
    refused(path, "unknown to it, 'layer", backbone="resnet18")


class Touch:
    """Code in a pickle."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_files_that_are_no_weights_are_refused(tmp_path, saved):
    path, trap = tmp_path / "bad", tmp_path / "trap"
    path.write_bytes(saved.read_bytes()[:-100])
    refused(path, "damaged")
    torch.save(timm_state(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, "damaged")
    for content in (b"", b"PK\3\4", b"not weights", b"\x00" * 8 + b"{", os.urandom(500)):
        path.write_bytes(content)
        refused(path, "damaged")
    for content in ([1, 2], {}, {"a": 1}, {1: torch.zeros(1)}, torch.zeros(2)):
        torch.save(content, path)
        refused(path, "no tensor")
    torch.save({"a": Touch(trap)}, path)
    refused(path, "pickled code is not run")
    path.write_bytes(pickle.dumps(Touch(trap), protocol=2))
    refused(path, "damaged|not run")
    assert not trap.exists()
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match=r"cannot be read: .*this machine"):
            start_from(path)
    with pytest.raises(UserError, match="cannot be read"):
        start_from("nul\0l")


def test_the_hash_holds_the_content_and_not_the_place(tmp_path, saved):
    copy = tmp_path / "elsewhere.bin"
    shutil.copy(saved, copy)
    one, two = start_from(saved), start_from(copy)
    assert one.digest == two.digest != small_protocol().digest
    assert one.content()["model"]["weights_sha256"] == file_digest(str(saved))
    assert "weights" not in one.content()["model"]
    assert str(tmp_path) not in one.model_dump_json()
    with copy.open("ab") as file:
        file.write(b" ")
    assert start_from(copy).digest != one.digest
    # A start from a file is a pretrained start: one meaning, one hash.
    assert start_from(saved, pretrained=True).digest == start_from(saved, pretrained=False).digest == one.digest


def test_a_protocol_file_and_an_override_name_it(tmp_path, saved):
    path = tmp_path / "mine.toml"
    path.write_text(f"[model]\nbackbone = 'test_resnet'\nweights = '{saved}'\n")
    read = load_protocol(str(path))
    assert read.model.weights_sha256 == file_digest(str(saved))
    set_so = load_protocol("tiny", (f"model.weights={saved}",))
    assert set_so.name == "tiny+model.weights=weights.safetensors"  # no path of this machine
    assert set_so.model.pretrained
    path.write_text(f"[model]\nweights = '{saved}'\nweights_sha256 = '{'0' * 64}'\n")
    with pytest.raises(UserError, match=r"not that of model\.weights_sha256"):
        load_protocol(str(path))


@pytest.mark.parametrize("name", ["real-cpu", "real-gpu"])
def test_where_the_named_weights_lie_is_no_part_of_the_protocol(name, data_root):
    place = f"model.weights={data_root / 'weights' / 'tf_efficientnet_lite0.in1k.safetensors'}"
    protocol = load_protocol(name)
    placed = load_protocol(name, (place,))
    assert (placed.name, placed.digest) == (name, protocol.digest)
    assert load_protocol(name, (place, "schedule.steps=7")).name == f"{name}+schedule.steps=7"
    assert protocol.model.pixel_mean == (0.5, 0.5, 0.5)  # what these weights were trained on
    assert body_of(build_detector(placed, 3, 0))


def test_other_weights_than_the_protocol_names_are_refused(saved):
    with pytest.raises(UserError, match=r"not that of model\.weights_sha256"):
        load_protocol("real-cpu", (f"model.weights={saved}",))


def test_without_the_file_nothing_is_trained_and_everything_else_works(tmp_path, saved):
    moved = tmp_path / "moved.safetensors"
    protocol = start_from(saved)
    outcome = run(request(tmp_path / "results", protocol=protocol))
    assert str(tmp_path) not in outcome.path.read_text()
    assert str(tmp_path).encode() not in (outcome.work_dir / "network.safetensors").read_bytes()
    saved.rename(moved)
    recorded = recorded_protocol(outcome.record)
    assert recorded.digest == protocol.digest
    with pytest.raises(UserError, match=f"SHA-256 {protocol.model.weights_sha256}; .*--set model.weights=FILE"):
        build_detector(recorded, 10, 0)
    from harness.records.store import ResultsStore

    trained = load_trained(ResultsStore(tmp_path / "results"), outcome.record.run_id, torch.device("cpu"))
    assert trained.protocol.digest == protocol.digest


def test_a_file_that_changes_after_the_protocol_was_read_is_noticed(saved):
    digest = file_digest(str(saved))
    with saved.open("ab") as file:
        file.write(b" ")
    with pytest.raises(UserError, match="have changed"):
        read_weights(str(saved), digest)


def test_a_loaded_run_needs_no_pretrained_weights(tmp_path, monkeypatch):
    outcome = run(request(tmp_path))
    record = outcome.record
    record.protocol.content["model"]["pretrained"] = True
    monkeypatch.setattr("harness.records.store.ResultsStore.find", lambda *_: record)
    from harness.records.store import ResultsStore

    create = timm.create_model

    def offline(*arguments, pretrained=False, **options):
        assert not pretrained
        return create(*arguments, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    assert load_trained(ResultsStore(tmp_path), record.run_id, torch.device("cpu")).model
