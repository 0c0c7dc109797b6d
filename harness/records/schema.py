"""The record of one run, schema 2: the only thing the leaderboard and every table are made from.

A new schema needs a step in `harness.records.migrations`, which reads the records of the earlier ones.
"""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

SCHEMA = 2

Points = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[FiniteFloat, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ProtocolPart(_Part):
    """The protocol in full, so that a record stands without the file it came from."""

    name: str
    note: str
    hash: str
    content: dict[str, Any]


class SplitPart(_Part):
    """One split of the data."""

    split: str
    images: Count
    boxes: Count
    checksum: str
    warnings: dict[str, Count] = {}


class DataPart(_Part):
    """The data by title and checksum."""

    kind: str
    title: str
    classes: list[str]
    train: SplitPart
    val: SplitPart

    @field_validator("title")
    @classmethod
    def _no_path(cls, title: str) -> str:
        if PurePosixPath(title).is_absolute() or PureWindowsPath(title).is_absolute():
            raise ValueError("data is named by its title, never by an absolute path")
        return title


class BinPart(_Part):
    """Objects of one attribute's bin."""

    count: Count
    AP: Points | None = None  # later than the others: not in old records
    recall: Points | None
    mean_iou: Annotated[float, Field(ge=0, le=1)] | None


class MetricsPart(_Part):
    """Points, 0 to 100; null where no object defines the value."""

    AP: Points | None
    AP50: Points | None
    AP75: Points | None
    APs: Points | None
    APm: Points | None
    APl: Points | None
    AR100: Points | None
    bins: dict[str, dict[str, BinPart]] | None = None


class CostPart(_Part):
    """What the result cost; further figures may stand beside these."""

    model_config = ConfigDict(extra="allow")

    step_ms: Amount  # median over the training steps
    images_per_s: Amount
    train_s: Amount
    peak_memory_mb: Amount | None
    parameters: Count  # of the evaluated network
    assigner_parameters: Count
    eval_ms_per_image: Amount


class EnvironmentPart(_Part):
    """Machine and versions, as `harness.core.environment` gives them."""

    model_config = ConfigDict(extra="allow")

    device: str  # model of the processor or accelerator


class SourcePart(_Part):
    """The code that ran."""

    commit: str | None
    version: str | None
    earlier: list[str]  # code that trained earlier parts of a resumed run, where it was another


class DeclaresPart(_Part):
    """What the assigner changes besides the assignment, as `assigners.Declares` has it; what it leaves alone is absent.

    A run that changes nothing besides has an empty part and stands on the fair board.
    """

    replaces: list[Literal["class", "box", "quality"]] = []
    quality: Literal["iou", "centerness", "objectness"] | None = None
    score: Literal["sqrt_product", "product"] | None = None
    normaliser: Literal["positives", "labels"] | None = None
    nms: bool = True
    score_voting: bool = False


class EqualPart(_Part):
    """Digests of what must not depend on the assigner at one seed; null where they were not taken."""

    initial_weights: str | None  # of the detector before the first step
    batches: str | None  # every batch: which images, their boxes after augmentation, pixels


class Record(_Part):
    """Everything that a finished run leaves behind."""

    schema_: Literal[2] = Field(alias="schema")
    run_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]  # UTC
    protocol: ProtocolPart
    data: DataPart
    assigner: str
    options: dict[str, Any]
    changed_options: dict[str, Any]  # those that differ from the assigner's defaults
    declares: DeclaresPart
    seed: int
    metrics: MetricsPart
    cost: CostPart
    environment: EnvironmentPart
    source: SourcePart
    equal: EqualPart
    command: str
    progress: dict[str, Any]
