"""The protocol's hash moves with everything that can move a result and with nothing else; errors say what to do."""

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector import InferenceSettings, LossSettings
from harness.core.errors import UserError
from harness.protocol.protocol import Protocol, builtin_protocols, canonical_hash, load_protocol, protocol_of


@pytest.mark.parametrize("name", list(builtin_protocols()))
def test_every_built_in_protocol_loads_and_says_what_it_is(name):
    protocol = load_protocol(name)
    assert protocol.name == name
    assert protocol.note
    assert len(protocol.digest) == 12


def test_the_detector_has_the_defaults_of_a_protocol():
    protocol = Protocol(name="a")
    said = {**protocol.loss.model_dump(), **protocol.evaluation.model_dump(), "quality": protocol.model.quality}
    own = {**asdict(LossSettings()), **asdict(InferenceSettings())}
    common = own.keys() & said.keys()
    assert {name: own[name] for name in common} == {name: said[name] for name in common}
    assert own.keys() - said.keys() == {"score", "score_voting"}  # which an assigner alone declares


def test_the_canonical_hash_never_changes():
    value = {"b": [1, 2.5, None, True], "a": {"z": "ü", "y": {}}}
    assert canonical_hash(value) == "851623c2f225"


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False)))
def test_the_order_of_keys_is_no_content(value):
    assert canonical_hash(dict(reversed(value.items()))) == canonical_hash(value)


def test_name_and_note_are_labels():
    assert Protocol(name="a").digest == Protocol(name="b", note="words").digest


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("shapes-cpu", "623bec5995cf"), ("small", "1a3db849905d"), ("tiny", "032ff992fa2e"), ("paper", "9131c77e828f"),
        ("paper-180k", "968773a8921a"), ("paper-voc", "ceb32ffcdace"), ("paper-wider", "cbd5d18ac4e0"),
    ],
)  # fmt: skip
def test_the_hashes_that_records_hang_on_never_change(name, digest):
    assert load_protocol(name).digest == digest


def test_a_later_key_is_content_only_off_its_default():
    base = load_protocol("small")
    same, other = (load_protocol("small", (f"data.difficult={value}",)) for value in ("train", "ignore"))
    assert "difficult" not in base.content()["data"]
    assert same.content() == base.content()
    assert other.content()["data"]["difficult"] == "ignore"
    assert other.digest != base.digest
    part = {"name": "small", "content": base.content()}
    assert protocol_of(part["content"], part["name"]) == base.model_copy(update={"note": ""})


CHANGES = {
    bool: lambda value: not value,
    int: lambda value: value + 1,
    float: lambda value: value / 2 if value else 0.25,
}
CHOICES = {
    "data.train_split": "other", "data.val_split": "other", "data.train_images": 3, "data.val_images": 3,
    "data.crowd": "drop", "data.difficult": "ignore", "data.classes": ("dog",), "data.overlap": "drop",
    "data.unreadable": "skip", "data.scale_jitter": (0.5, 1.0), "model.backbone": "resnet18",
    "model.quality": "centerness",
    "loss.classification": "qfl", "loss.normaliser": "labels", "schedule.optimizer": "adamw",
    "schedule.decay": "cosine", "schedule.decay_at": (0.5,), "schedule.precision": "bfloat16",
    "model.weights_sha256": "0" * 64, "model.deformable_stages": (4,), "evaluation.test_scales": (64,),
    "model.pixel_mean": (0.5, 0.5, 0.5), "model.pixel_std": (0.5, 0.5, 0.5),
}  # fmt: skip
WITH = {"schedule.ema_ramp": {"ema": 0.5}}  # without which a key has no meaning
KEYS = [
    f"{section}.{key}"
    for section, field in Protocol.model_fields.items()
    if section not in ("name", "note")
    for key, part in field.annotation.model_fields.items()
    if not part.exclude  # the place of a file: its digest is a key of its own
]


@pytest.mark.parametrize("key", KEYS)
def test_every_key_moves_the_hash(key):
    section, name = key.split(".")
    beside = WITH.get(key, {})
    base = Protocol.model_validate({"name": "base", section: beside})
    value = getattr(getattr(base, section), name)
    changed = CHOICES[key] if key in CHOICES else CHANGES[type(value)](value)
    other = Protocol.model_validate({"name": "base", section: {**beside, name: changed}})
    assert other.digest != base.digest


def test_an_override_changes_the_value_the_name_and_the_hash():
    base, changed = load_protocol("tiny"), load_protocol("tiny", ("schedule.steps=7", "model.backbone=resnet18"))
    assert changed.schedule.steps == 7
    assert changed.model.backbone == "resnet18"
    assert changed.name != base.name
    assert changed.digest != base.digest


def test_a_file_is_a_protocol(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('note = "n"\n[schedule]\nsteps = 5\n')
    protocol = load_protocol(str(path))
    assert (protocol.name, protocol.note, protocol.schedule.steps) == ("mine", "n", 5)
    assert protocol.digest == Protocol.model_validate({"name": "x", "schedule": {"steps": 5}}).digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[schedul]\nsteps = 1", "unknown key 'schedul', did you mean 'schedule'"),
        ("[schedule]\nstep = 1", "unknown key 'schedule.step', did you mean 'steps'"),
        ("[schedule]\nsteps = 0", "schedule.steps: .*greater than 0.*got 0"),
        ("[data]\nshort_edge = 900\nlong_edge = 800", "short_edge 900 exceeds data.long_edge 800"),
        ("[data]\nscale_jitter = [1.5, 0.5]", "scale_jitter must be"),
        ('[loss]\nclassification = "fokal"', "loss.classification"),
        ("[schedule\nsteps = 1", "not valid TOML"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_it(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_protocol(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("tinny", (), "unknown protocol 'tinny', did you mean 'tiny'"),
        ("no/such/file.toml", (), "cannot be read"),
        ("tiny", ("steps=3",), "not of the form section.key=value"),
        ("tiny", ("schedule.steps",), "not of the form section.key=value"),
        ("tiny", ("schedule.steps=many",), "schedule.steps"),
        ("tiny", ("name.x=1",), "'name' is not a section"),
        ("tiny", ("loss.gama=1",), "did you mean 'gamma'"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(name, overrides, message):
    with pytest.raises(UserError, match=message):
        load_protocol(name, overrides)


def test_a_protocol_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_protocol("tiny").schedule.steps = 3
