"""The protocol: everything that must be equal across assigners, frozen, validated and hashed.

A protocol is read from TOML. Its hash covers every key that can move a result; two runs may be compared only if
their hashes agree. What belongs to the assigner (positives, soft labels, weights, negative weights) is not in it.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import UserError, did_you_mean, reason, shorten

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]

_Listed = Field(strict=False)  # TOML has lists where Python has tuples; their members stay strict

# Besides its own error, the parser meets numbers of thousands of digits and brackets of thousands of levels.
_NO_TOML = (ValueError, RecursionError)


class _Section(BaseModel):
    # Strict: "100", true or 100.0 as a number of steps is a slip, and a hash of infinity would be no JSON.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSection(_Section):
    """Which images, at which size."""

    train_split: str | None = None  # None: the data set's own default
    val_split: str | None = None
    train_images: Positive | None = None  # shapes: how many are drawn; others: the first n of the split
    val_images: Positive | None = None
    short_edge: Positive = 800  # px
    long_edge: Positive = 1333  # px
    crowd: Literal["ignore", "drop"] = "ignore"  # crowd boxes: regions without negatives, or not there
    horizontal_flip: Share = 0.5
    vertical_flip: Share = 0.0
    scale_jitter: Annotated[tuple[float, float], _Listed] = (1.0, 1.0)  # factor on short_edge, uniform
    crop: bool = False  # with jitter: crop or pad back to the un-jittered size
    color_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0  # brightness, contrast, saturation


class ModelSection(_Section):
    """The shared detector."""

    backbone: str = "resnet50"  # any timm model with features at strides 8, 16, 32
    pretrained: bool = False
    frozen_stages: Annotated[int, Field(ge=0)] = 0
    frozen_bn: bool = False
    channels: Positive = 256  # of the FPN and the head
    head_depth: Positive = 4  # convolutions in each tower
    quality: Literal["iou", "centerness"] = "iou"
    point_offset: Share = 0.5


class LossSection(_Section):
    """One form of every term for every assigner."""

    classification: Literal["focal", "qfl", "focal_pt", "varifocal", "weighted"] = "focal"
    alpha: Share = 0.25
    gamma: Annotated[float, Field(ge=0)] = 2.0
    normaliser: Literal["positives", "labels"] = "positives"
    class_weight: Annotated[float, Field(ge=0)] = 1.0
    box_weight: Annotated[float, Field(ge=0)] = 1.0
    quality_weight: Annotated[float, Field(ge=0)] = 1.0


class ScheduleSection(_Section):
    """Optimiser and learning rate."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.01
    momentum: Share = 0.9  # sgd
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    batch_size: Positive = 16  # images per step over all processes
    steps: Positive = 90_000
    decay: Literal["step", "cosine"] = "step"
    decay_at: Annotated[tuple[Share, ...], _Listed] = (2 / 3, 8 / 9)  # shares of `steps`; lr / 10 after each
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    warmup_factor: Share = 1 / 3
    clip_norm: Annotated[float, Field(ge=0)] = 0.0  # 0: off
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay; 0: off
    precision: Literal["float32", "bfloat16"] = "float32"


class EvaluationSection(_Section):
    """Inference settings and when they are applied."""

    score_threshold: Share = 0.05
    candidates_per_level: Positive = 1000
    nms_iou: Share = 0.6
    detections: Positive = 100
    batch_size: Positive = 16
    every: Annotated[int, Field(ge=0)] = 0  # steps between evaluations while training; 0: only at the end


class Protocol(_Section):
    """A whole protocol. `name` and `note` are labels and outside the hash."""

    name: str
    note: str = ""
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    loss: LossSection = LossSection()
    schedule: ScheduleSection = ScheduleSection()
    evaluation: EvaluationSection = EvaluationSection()

    @model_validator(mode="after")
    def _consistent(self) -> Protocol:
        low, high = self.data.scale_jitter
        if not 0 < low <= high:
            raise ValueError(f"data.scale_jitter must be 0 < low <= high, got {low}, {high}")
        if self.data.short_edge > self.data.long_edge:
            raise ValueError(f"data.short_edge {self.data.short_edge} exceeds data.long_edge {self.data.long_edge}")
        return self

    def content(self) -> dict[str, Any]:
        """All keys that can move a result, as plain JSON values."""
        return self.model_dump(mode="json", exclude={"name", "note"})

    @property
    def digest(self) -> str:
        """The first 12 hex digits of the SHA-256 of `content` in canonical JSON."""
        return canonical_hash(self.content())


def canonical_hash(value: object, digits: int = 12) -> str:
    """SHA-256 of a JSON value with sorted keys and no spaces, as its first `digits` hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def builtin_protocols() -> dict[str, str]:
    """Name and first note line of every protocol that ships with the package."""
    found = {}
    for entry in sorted(resources.files("harness.protocols").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            found[entry.name.removesuffix(".toml")] = str(tomllib.loads(entry.read_text("utf-8")).get("note", ""))
    return found


def load_protocol(name_or_path: str, overrides: tuple[str, ...] = ()) -> Protocol:
    """Read a protocol by built-in name or from a TOML file, then apply ``section.key=value`` overrides.

    Raises:
        UserError: for an unknown name, unreadable TOML, an unknown key or a value out of range.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        origin = str(path)
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"protocol {shorten(origin)} cannot be read: {reason(error)}") from error
    else:
        known = builtin_protocols()
        if name_or_path not in known:
            raise UserError(
                f"unknown protocol {name_or_path!r}{did_you_mean(name_or_path, known)}; "
                f"known: {', '.join(known)}; or give the path of a .toml file"
            )
        origin = name_or_path
        text = (resources.files("harness.protocols") / f"{name_or_path}.toml").read_text("utf-8")
    try:
        values = tomllib.loads(text)
    except _NO_TOML as error:
        raise UserError(f"protocol {origin} is not valid TOML: {reason(error)}") from error
    values.setdefault("name", path.stem)
    for override in overrides:
        _apply(values, override)
    if overrides:
        values["name"] = f"{values['name']}+{','.join(sorted(overrides))}"
    try:
        return Protocol.model_validate(values)
    except ValidationError as error:
        raise UserError(f"protocol {origin}: {_explain(error)}") from error


def recorded_protocol(record: Mapping[str, Any]) -> Protocol:
    """The protocol that a record holds.

    Raises:
        UserError: for one that this version does not know.
    """
    part = record["protocol"]
    try:
        return Protocol.model_validate({**part["content"], "name": part["name"]})
    except ValidationError as error:
        raise UserError(
            f"the record of run {record['run_id']} holds a protocol of another version: {_explain(error)}; train it "
            f"again with: {record['command']}"
        ) from error


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not separator or not dot:
        raise UserError(f"--set {shorten(override)!r} is not of the form section.key=value, such as schedule.steps=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except _NO_TOML:
        value = text.strip()
    if not isinstance(values.setdefault(section, {}), dict):
        raise UserError(f"--set {override!r}: {section!r} is not a section")
    values[section][name] = value


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "protocol"
    if first["type"] == "extra_forbidden":
        section = Protocol.model_fields.get(str(first["loc"][0]))
        model = section.annotation if section is not None and len(first["loc"]) > 1 else Protocol
        known = list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
        return f"unknown key {where!r}{did_you_mean(str(first['loc'][-1]), known)}"
    return f"{where}: {first['msg'].removeprefix('Value error, ')} (got {shorten(repr(first['input']))})"
