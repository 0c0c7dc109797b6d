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

from harness.core.errors import UserError, did_you_mean, reading, reason, shorten
from harness.protocol.weights import IMAGENET_MEAN, IMAGENET_STD, file_digest, pixels_of_start

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]

# Marks a key that came after the first records: it is left out of the content, and so of the hash, while it has its
# default, which is what happened before there was such a key. So no hash and no run id of old ever changes. Where that
# is not what a new protocol should mean by leaving the key out, `_as_of_today` says what it means.
LATER = "later"

_Listed = Field(strict=False)  # TOML has lists where Python has tuples; their members stay strict

_OTHER_FILE = "give the file that it is of, or leave the digest out"

# Besides its own error, the parser meets numbers of thousands of digits and brackets of thousands of levels.
_NO_TOML = (ValueError, RecursionError)


class _Section(BaseModel):
    # Strict: "100", true or 100.0 as a number of steps is a slip, and a hash of infinity would be no JSON.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def content(self) -> dict[str, Any]:
        """All keys that can move a result, as plain JSON values; those marked `LATER` only off their default."""
        kept = {
            name
            for name, field in type(self).model_fields.items()
            if LATER not in field.metadata or getattr(self, name) != field.get_default(call_default_factory=True)
        }
        return self.model_dump(mode="json", include=kept)


def _ascending(name: str, values: tuple[int, ...]) -> None:
    """One way to write one setting, and so one hash."""
    if list(values) != sorted(set(values)):
        raise ValueError(f"{name} must be ascending, each value once, got {list(values)}")


class DataSection(_Section):
    """Which images, at which size."""

    train_split: str | None = None  # None: the data set's own default
    val_split: str | None = None
    train_images: Positive | None = None  # shapes: how many are drawn; others: the first n of the split
    val_images: Positive | None = None
    short_edge: Positive = 800  # px
    long_edge: Positive = 1333  # px
    crowd: Literal["ignore", "drop"] = "ignore"  # crowd boxes: regions without negatives, or not there
    # VOC's difficult objects in training: objects as any, regions without negatives, or not there. No evaluation counts
    # them, whatever stands here.
    difficult: Annotated[Literal["train", "ignore", "drop"], LATER] = "train"
    # Classes by name, in this order; objects of others are left out. None: all of them, in the data set's own order.
    classes: Annotated[tuple[str, ...] | None, _Listed, LATER] = None
    # Validation images that are trained on as well: not taken, left out of training, or taken as they are.
    overlap: Annotated[Literal["refuse", "drop", "allow"], LATER] = "refuse"
    # Images that cannot be decoded: not taken, or left out and counted.
    unreadable: Annotated[Literal["refuse", "skip"], LATER] = "refuse"
    horizontal_flip: Share = 0.5
    vertical_flip: Share = 0.0
    scale_jitter: Annotated[tuple[float, float], _Listed] = (1.0, 1.0)  # factor on short_edge, uniform
    crop: bool = False  # with jitter: crop or pad back to the un-jittered size
    color_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0  # brightness, contrast, saturation

    @model_validator(mode="after")
    def _classes_once(self) -> DataSection:
        if self.classes is not None and (not self.classes or len(set(self.classes)) < len(self.classes)):
            raise ValueError(f"data.classes must name classes, each once, got {list(self.classes)}")
        return self


class ModelSection(_Section):
    """The detector that all assigners share."""

    backbone: str = "resnet50"  # any timm model with features at strides 8, 16, 32
    pretrained: bool = False
    # A local file to start from instead (safetensors or a state dict, by timm's names or of a whole detector; relative
    # to the working directory). What counts is its content: the path is in no record, and the digest follows from it.
    weights: Annotated[str, Field(exclude=True)] = ""
    weights_sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$"), LATER] = ""
    frozen_stages: Annotated[int, Field(ge=0)] = 0
    frozen_bn: bool = False
    # Of 2-5 (C2-C5), ascending: the 3x3 convolutions of their bottlenecks become modulated deformable ones.
    deformable_stages: Annotated[tuple[Annotated[int, Field(ge=2, le=5)], ...], _Listed, LATER] = ()
    channels: Positive = 256  # of the FPN and the head
    head_depth: Positive = 4  # convolutions in each tower
    quality: Literal["iou", "centerness"] = "iou"
    point_offset: Share = 0.5
    # RGB in [0, 1]: what the network sees is (pixel - mean) / deviation. A new protocol with a pretrained start follows
    # those of the start.
    pixel_mean: Annotated[tuple[Share, Share, Share], _Listed, LATER] = IMAGENET_MEAN
    pixel_std: Annotated[tuple[Deviation, Deviation, Deviation], _Listed, LATER] = IMAGENET_STD

    @model_validator(mode="before")
    @classmethod
    def _weights_by_content(cls, values: Any) -> Any:
        """Give a file of weights its digest; starting from it is a pretrained start, whatever `pretrained` says."""
        if not isinstance(values, dict):
            return values
        path, digest = values.get("weights", ""), values.get("weights_sha256", "")
        if isinstance(path, str) and path:
            found = file_digest(path)
            if digest not in ("", found):
                raise UserError(f"weights {path} have SHA-256 {found}, not that of model.weights_sha256; {_OTHER_FILE}")
            digest = found
        return {**values, "weights_sha256": digest, "pretrained": True} if digest else values

    @model_validator(mode="after")
    def _stages_once(self) -> ModelSection:
        _ascending("model.deformable_stages", self.deformable_stages)
        return self


class LossSection(_Section):
    """One form of every term for every assigner."""

    classification: Literal["focal", "sigmoid_focal", "qfl", "focal_pt", "varifocal", "weighted"] = "focal"
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
    # The decay rises to `ema` as (1 + t) / (10 + t), t updates done, so that the beginning is soon forgotten. A new
    # protocol with an average has the ramp.
    ema_ramp: Annotated[bool, LATER] = False
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _ramp_of_an_average(self) -> ScheduleSection:
        if self.ema_ramp and not self.ema:
            raise ValueError("ema_ramp is of an average, and ema is 0; set schedule.ema or leave schedule.ema_ramp out")
        return self


class EvaluationSection(_Section):
    """Inference settings and when they are applied."""

    score_threshold: Share = 0.05
    candidates_per_level: Positive = 1000
    nms_iou: Share = 0.6
    detections: Positive = 100
    batch_size: Positive = 16
    every: Annotated[int, Field(ge=0)] = 0  # steps between evaluations while training; 0: only at the end
    # Short edges, px, ascending, the long edge in proportion: detections of all of them meet before one NMS. The
    # protocol's own size is tested alone where this is empty, and only if it is among them where it is not.
    test_scales: Annotated[tuple[Positive, ...], _Listed, LATER] = ()
    test_flip: Annotated[bool, LATER] = False  # test each scale mirrored, too

    @model_validator(mode="after")
    def _scales_once(self) -> EvaluationSection:
        _ascending("evaluation.test_scales", self.test_scales)
        return self


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
        return {name: section.content() for name, section in self if isinstance(section, _Section)}

    @property
    def digest(self) -> str:
        """The first 12 hex digits of the SHA-256 of `content` in canonical JSON."""
        return canonical_hash(self.content())


def dotted(content: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol's content by ``section.key``."""
    sections = ((section, values) for section, values in content.items() if isinstance(values, Mapping))
    return {f"{section}.{key}": value for section, values in sections for key, value in values.items()}


def canonical_hash(value: object, digits: int = 12) -> str:
    """SHA-256 of a JSON value with sorted keys and no spaces, as its first `digits` hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def builtin_protocols() -> dict[str, str]:
    """Name and first note line of every protocol that ships with the package."""
    presets = sorted(resources.files("harness.protocol.presets").iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".toml"): str(tomllib.loads(file.read_text("utf-8")).get("note", ""))
        for file in presets
        if file.name.endswith(".toml")
    }


def load_protocol(name_or_path: str, overrides: tuple[str, ...] = ()) -> Protocol:
    """Read a protocol by built-in name or from a TOML file, then apply ``section.key=value`` overrides.

    A new protocol, unlike that of a record, means by a key that it leaves out what is right today (`_as_of_today`).

    Raises:
        UserError: for an unknown name, unreadable TOML, an unknown key or a value out of range.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        origin = str(path)
        with reading(f"protocol {shorten(origin)}"):
            text = path.read_text("utf-8-sig")
    else:
        known = builtin_protocols()
        if name_or_path not in known:
            raise UserError(
                f"unknown protocol {name_or_path!r}{did_you_mean(name_or_path, known)}; "
                f"known: {', '.join(known)}; or give the path of a .toml file"
            )
        origin = name_or_path
        text = (resources.files("harness.protocol.presets") / f"{name_or_path}.toml").read_text("utf-8")
    try:
        values = tomllib.loads(text)
    except _NO_TOML as error:
        raise UserError(f"protocol {origin} is not valid TOML: {reason(error)}") from error
    values.setdefault("name", path.stem)
    for override in overrides:
        _apply(values, override)
    if changes := sorted(portable_override(override) for override in overrides if not _only_place(values, override)):
        values["name"] = f"{values['name']}+{','.join(changes)}"
    try:
        return Protocol.model_validate(_as_of_today(values, Protocol.model_validate(values)))
    except ValidationError as error:
        raise UserError(f"protocol {origin}: {_explain(error)}") from error


def _as_of_today(values: dict[str, Any], protocol: Protocol) -> dict[str, Any]:
    """The values of a new, valid protocol, with today's meaning of the keys marked `LATER` that it leaves out.

    Their defaults say what happened before there were such keys, and of records they must go on saying it. Here stands
    what has become of them since; what the protocol says itself is left alone.

    Raises:
        UserError: if what a key should follow is unknown.
    """
    today: dict[str, dict[str, Any]] = {}
    model = protocol.model
    if model.pretrained and not {"pixel_mean", "pixel_std"} <= model.model_fields_set:
        mean, std = pixels_of_start(model.backbone, model.weights)
        today["model"] = {"pixel_mean": mean, "pixel_std": std}
    if protocol.schedule.ema:
        today["schedule"] = {"ema_ramp": True}
    return {**values, **{section: {**keys, **values.get(section, {})} for section, keys in today.items()}}


def protocol_of(content: Mapping[str, Any], name: str) -> Protocol:
    """The protocol of a content, as `Protocol.content` gives it.

    Raises:
        UserError: for one that this version does not know; the message follows the name of what holds it.
    """
    try:
        return Protocol.model_validate({**content, "name": name})
    except ValidationError as error:
        raise UserError(f"holds a protocol of another version: {_explain(error)}") from error


def _only_place(values: dict[str, Any], override: str) -> bool:
    """Whether an override says where the weights lie that the protocol names by their digest: no other protocol."""
    model = values.get("model")
    digest = model.get("weights_sha256") if isinstance(model, dict) else ""
    return bool(digest) and override.partition("=")[0].strip() == "model.weights"


def portable_override(override: str) -> str:
    """An override without anything of this machine: of a file of weights, its name alone."""
    key, separator, text = override.partition("=")
    return f"{key}={Path(text.strip()).name}" if separator and key.strip() == "model.weights" else override


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
