"""The record of one run, schema 2: the only thing the leaderboard and every table are made from.

A new schema needs a step in `harness.records.migrations`, which reads the records of the earlier ones.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

SCHEMA = 2

Points = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[FiniteFloat, Field(ge=0)]


Identity = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
Moment = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]  # UTC


def now() -> str:
    """This `Moment`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Part(BaseModel):
    """Of a file of the store: unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ProtocolPart(Part):
    """The protocol in full, so that a record stands without the file it came from."""

    name: str
    note: str
    hash: str
    content: dict[str, Any]


class SplitIdentity(Part):
    """Which images and objects a split is of."""

    split: str
    images: Count
    checksum: str


class SplitPart(SplitIdentity):
    """One split of the data, and what was found on reading it."""

    boxes: Count
    warnings: dict[str, Count] = {}


class DataIdentity(Part):
    """Which data a run has, as far as its id and its plan ask: by title and checksums, never by path."""

    kind: str  # the reader: shapes, coco, voc, wider, yolo, csv or a plugin's
    title: str
    classes: list[str]
    train: SplitIdentity
    val: SplitIdentity

    @field_validator("title")
    @classmethod
    def _no_path(cls, title: str) -> str:
        if PurePosixPath(title).is_absolute() or PureWindowsPath(title).is_absolute():
            raise ValueError("data is named by its title, never by an absolute path")
        return title


class DataPart(DataIdentity):
    """What a record says of its data."""

    train: SplitPart
    val: SplitPart


class BinPart(Part):
    """Objects of one attribute's bin."""

    count: Count
    AP: Points | None = None  # later than the others: not in old records
    recall: Points | None
    mean_iou: Annotated[float, Field(ge=0, le=1)] | None


METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # that are shown and compared


class MetricsPart(Part):
    """Points, 0 to 100; null where no object defines the value."""

    AP: Points | None
    AP50: Points | None
    AP75: Points | None
    APs: Points | None
    APm: Points | None
    APl: Points | None
    AR100: Points | None
    bins: dict[str, dict[str, BinPart]] | None = None

    def __getitem__(self, name: str) -> float | None:
        """A metric that is chosen by its name."""
        value: float | None = getattr(self, name)
        return value


class CostPart(Part):
    """What the result cost; further figures may stand beside these."""

    model_config = ConfigDict(extra="allow")
    RATES: ClassVar = frozenset({"images_per_s"})  # the more the better, where all others are a cost

    step_ms: Amount  # median over the training steps
    images_per_s: Amount
    train_s: Amount
    peak_memory_mb: Amount | None
    parameters: Count  # of the evaluated network
    assigner_parameters: Count
    eval_ms_per_image: Amount

    def __getitem__(self, name: str) -> float | None:
        """A figure that is chosen by its name; None where the record has none."""
        value: float | None = getattr(self, name, None)
        return value


class EnvironmentPart(Part):
    """Machine and versions, as `harness.core.environment` gives them."""

    model_config = ConfigDict(extra="allow")

    device: str  # model of the processor or accelerator


class SourcePart(Part):
    """The code that ran."""

    commit: str | None
    version: str | None
    earlier: list[str]  # code that trained earlier parts of a resumed run, where it was another


class DeclaresPart(Part):
    """What the assigner changes besides the assignment, as `assigners.Declares` has it; what it leaves alone is absent.

    A run that changes nothing besides has an empty part and stands on the fair board.
    """

    replaces: list[Literal["class", "box", "quality"]] = []
    quality: Literal["iou", "centerness", "objectness"] | None = None
    score: Literal["sqrt_product", "product"] | None = None
    normaliser: Literal["positives", "labels", "weights"] | None = None
    nms: bool = True
    score_voting: bool = False

    @property
    def changes(self) -> dict[str, Any]:
        """What it changes, by name; empty on the fair board."""
        return dict(sorted(self.model_dump(exclude_unset=True).items()))


class EqualPart(Part):
    """Digests of what must not depend on the assigner at one seed; null where they were not taken."""

    initial_weights: str | None  # of the detector before the first step
    batches: str | None  # every batch: which images, their boxes after augmentation, pixels


class RunRecord(Part):
    """Everything that a finished run leaves behind.

    It is read as it was written: what an older version never said stays unsaid in `as_json`.
    """

    schema_: Literal[2] = Field(alias="schema")
    run_id: Identity
    created: Moment
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

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, exactly those that it was made from."""
        return self.model_dump(by_alias=True, exclude_unset=True)

    def with_parts(self, **parts: Any) -> RunRecord:
        """The record with some of its parts replaced.

        Raises:
            ValueError: if the schema does not allow them.
        """
        return RunRecord.model_validate({**self.as_json(), **parts})
