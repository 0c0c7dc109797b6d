"""Normalisation follows the weights to start from; protocols and records of before keep ImageNet's."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from detector import pad_images
from detector.backbone import pretrained_pixels
from detector.images import MEAN, STD
from harness.core.errors import UserError
from harness.protocol.protocol import Protocol, builtin_protocols, load_protocol, protocol_of
from harness.protocol.weights import AS_IMAGENET, IMAGENET_MEAN, IMAGENET_STD
from harness.records.inputs import recorded_protocol
from harness.records.store import ResultsStore
from harness.runs.run import run
from harness.runs.trained import load_trained
from harness.sweeps.cost import _work
from harness.training.build import build_detector
from tests.detector.common import first_input
from tests.repository.test_rooms import assert_runs
from tests.support.runs import request, small_protocol

HALF = (0.5, 0.5, 0.5)
LITE = "model.backbone=tf_efficientnet_lite0"  # timm says 0.5 of it, as of test_resnet
IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)


def pixels(protocol):
    return protocol.model.pixel_mean, protocol.model.pixel_std


def started(path, *overrides):
    """A new protocol that starts from a file of test_resnet's weights."""
    return load_protocol("tiny", (f"model.weights={path}", *overrides))


def test_a_start_from_nothing_is_normalised_as_ever():
    for overrides in ((), (LITE,), ("model.backbone=test_resnet",), (LITE, "model.pretrained=false")):
        protocol = load_protocol("tiny", overrides)
        assert pixels(protocol) == IMAGENET == (MEAN, STD)
        assert not {"pixel_mean", "pixel_std"} & protocol.content()["model"].keys()


def test_a_pretrained_start_is_normalised_as_its_weights_were():
    protocol = load_protocol("tiny", (LITE, "model.pretrained=true"))
    assert pixels(protocol) == (HALF, HALF)
    assert protocol.content()["model"]["pixel_mean"] == [0.5, 0.5, 0.5]
    told = Protocol.model_validate({**protocol.content(), "name": "written out"})
    assert told.digest == protocol.digest
    untold = {key: value for key, value in protocol.content()["model"].items() if not key.startswith("pixel_")}
    assert Protocol.model_validate({**protocol.content(), "model": untold, "name": "p"}).digest != protocol.digest


@pytest.mark.parametrize("backbone", ["resnet50", "resnet18.a1_in1k", *sorted(AS_IMAGENET)])
def test_what_is_imagenets_is_no_content(backbone):
    of_start = load_protocol("tiny", ("model.pretrained=true", f"model.backbone={backbone}"))
    assert not {"pixel_mean", "pixel_std"} & of_start.content()["model"].keys()
    assert pixels(of_start) == IMAGENET


def test_rounded_numbers_of_imagenet_are_imagenets(monkeypatch):
    monkeypatch.setattr(
        "detector.backbone.pretrained_pixels", lambda _: ((0.4850001, 0.4559, 0.4061), (0.229, 0.224, 0.23))
    )
    protocol = load_protocol("tiny", (LITE, "model.pretrained=true"))
    assert pixels(protocol) == (IMAGENET_MEAN, (0.229, 0.224, 0.23))


def test_the_backbones_that_are_not_asked_for_are_what_timm_says():
    assert all(pretrained_pixels(name) == IMAGENET for name in AS_IMAGENET)
    shipped = [load_protocol(name) for name in builtin_protocols()]
    pretrained = [protocol for protocol in shipped if protocol.model.pretrained]
    assert len(pretrained) > 5
    assert all(pixels(protocol) == pretrained_pixels(protocol.model.backbone) for protocol in pretrained)


def test_protocols_that_need_no_answer_ask_no_one():
    assert_runs(
        "import sys\n"
        "from harness.protocol.protocol import builtin_protocols, load_protocol, protocol_of\n"
        "for name in builtin_protocols():\n"
        "    load_protocol(name)\n"
        f"load_protocol('tiny', ({LITE!r}, 'schedule.ema=0.9'))\n"
        f"load_protocol('paper', ({LITE!r}, 'model.pixel_mean=[0,0,0]', 'model.pixel_std=[1,1,1]'))\n"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )


def test_what_is_set_stands(tmp_path):
    given = load_protocol("tiny", (LITE, "model.pretrained=true", "model.pixel_mean=[0.1,0.2,0.3]"))
    assert pixels(given) == ((0.1, 0.2, 0.3), HALF)
    path = tmp_path / "mine.toml"
    path.write_text(
        "[model]\nbackbone = 'tf_efficientnet_lite0'\npretrained = true\npixel_std = [0.229, 0.224, 0.225]\n"
    )
    assert pixels(load_protocol(str(path))) == (HALF, IMAGENET_STD)
    # An override of the start is asked about as the start itself.
    assert pixels(load_protocol(str(path), ("model.backbone=resnet50",))) == IMAGENET
    alone = load_protocol("tiny", ("model.pixel_mean=[0,0,0]", "model.pixel_std=[1,1,1]"))
    assert pixels(alone) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.pixel_std=[0.5,0,0.5]", r"model\.pixel_std\.1: .*greater than 0 \(got 0\)"),
        ("model.pixel_std=[58.4,57.1,57.4]", r"model\.pixel_std\.0: .*less than or equal to 1"),
        ("model.pixel_mean=[0.5,0.5]", r"model\.pixel_mean"),
        ("model.pixel_mean=0.5", r"model\.pixel_mean: .*tuple"),
        ("model.pixel_mean=[0.5,-0.1,0.5]", r"model\.pixel_mean\.1: .*greater than or equal to 0"),
        ("model.pixel_mean=[0.5,nan,0.5]", r"model\.pixel_mean\.1"),
        ("model.pixel_mena=[0.5,0.5,0.5]", r"did you mean 'pixel_mean'"),
        ("model.backbone=resnet5O", r"unknown backbone 'resnet5O'; near names in timm: .*resnet50"),
    ],
)
def test_wrong_values_are_one_line(override, message):
    with pytest.raises(UserError, match=message) as caught:
        load_protocol("tiny", ("model.pretrained=true", override))
    assert "\n" not in str(caught.value)


def test_a_start_from_a_run_is_normalised_as_that_run(tmp_path):
    usual = run(request(tmp_path, protocol=small_protocol())).work_dir / "network.safetensors"
    assert pixels(started(usual)) == IMAGENET  # whatever timm says of test_resnet's own weights
    odd = {"pixel_mean": (0.1, 0.2, 0.3), "pixel_std": (0.4, 0.5, 0.6)}
    other = run(request(tmp_path, protocol=small_protocol(model=odd))).work_dir / "network.safetensors"
    assert pixels(started(other)) == tuple(odd.values())
    assert pixels(started(other, "model.pixel_std=[1,1,1]")) == ((0.1, 0.2, 0.3), (1, 1, 1))


def test_a_run_of_before_there_was_such_a_key_is_imagenets(tmp_path):
    path = tmp_path / "network.safetensors"
    about = {"run_id": "x", "protocol": {"name": "p", "model": {"backbone": "test_resnet"}}}
    save_file({"a": torch.zeros(1)}, path, metadata={"about": json.dumps(about)})
    assert pixels(started(path)) == IMAGENET
    about["protocol"]["model"]["pixel_std"] = [0.5, 0, 0.5]
    save_file({"a": torch.zeros(1)}, path, metadata={"about": json.dumps(about)})
    with pytest.raises(UserError, match=r"pixel_std\.1: .*greater than 0"):
        started(path)


@pytest.mark.parametrize("about", [None, "weights of mine", "[1]", '{"protocol": 3}', '{"protocol": {"model": "m"}}'])
def test_any_other_file_is_normalised_as_timm_says(tmp_path, about):
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata=about and {"about": about})
    assert pixels(started(path)) == (HALF, HALF)
    torch.save({"a": torch.zeros(1)}, path)
    assert pixels(started(path)) == (HALF, HALF)


def test_real_weights_see_what_they_were_trained_on(data_root):
    path = data_root / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
    if not path.is_file():
        pytest.skip(f"no weights at {path}")
    protocol = load_protocol("tiny", (LITE, f"model.weights={path}"))
    assert pixels(protocol) == (HALF, HALF)
    model = build_detector(protocol, 3, 0)
    stem = load_file(path)["conv_stem.weight"]
    assert torch.equal(model.backbone.body.state_dict()["conv_stem.weight"], stem)
    images = pad_images(
        [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))]
    )
    torch.testing.assert_close(
        first_input(model, images), (images.pixels.double() / 255 - 0.5) / 0.5, rtol=0, atol=1e-6
    )


def test_a_record_tells_it_and_is_built_so_again(tmp_path):
    protocol = small_protocol(model={"pixel_mean": HALF, "pixel_std": HALF})
    outcome = run(request(tmp_path, protocol=protocol))
    plain = run(request(tmp_path, protocol=small_protocol()))
    assert outcome.record.run_id != plain.record.run_id
    assert (outcome.work_dir / "metrics.jsonl").read_bytes() != (plain.work_dir / "metrics.jsonl").read_bytes()
    recorded = recorded_protocol(outcome.record)
    assert (recorded.digest, pixels(recorded)) == (protocol.digest, (HALF, HALF))
    for made, values in ((outcome, (HALF, HALF)), (plain, (MEAN, STD))):
        model = load_trained(ResultsStore(tmp_path), made.record.run_id, torch.device("cpu")).model
        found = model.pixel_mean.flatten(), model.pixel_std.flatten()
        assert all(torch.equal(one, torch.tensor(two)) for one, two in zip(found, values, strict=True))


def test_a_record_of_a_pretrained_start_without_the_keys_stays_as_it_was():
    part = {"name": "p", "content": load_protocol("tiny").content()}
    part["content"]["model"] |= {"backbone": "tf_efficientnet_lite0", "pretrained": True}
    recorded = protocol_of(part["content"], part["name"])
    assert pixels(recorded) == IMAGENET
    assert recorded.content() == part["content"]


def test_normalisation_is_no_work():
    plain, other = (small_protocol(model=model).content() for model in ({}, {"pixel_mean": HALF, "pixel_std": HALF}))
    assert plain != other
    assert _work(plain) == _work(other)
