"""What decides a run's result: said here alone, for run ids, boards, plans, look-ups and runs that go on.

Two runs are the same run where their `RunSpec.question` is; they may be compared where their `Question` is, which
leaves out the assigner and the seed; one stands for the other where their `answer_key` is, which leaves out options at
today's defaults; one that is evaluated otherwise takes the other's weights where their `training_key` is; and a trained
one that waits for its record becomes the other where they are `trained_alike`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.core.errors import shorten
from harness.core.files import slug
from harness.protocol.protocol import Protocol, canonical_hash, dotted
from harness.records.schema import DataIdentity, DataPart, RunRecord, SplitIdentity, SplitPart

if TYPE_CHECKING:
    from harness.data.base import ImageSet

# Part of what a run id is the hash of. Raise it if a run's result comes to depend on something new; it is no record's
# schema: a record may say more of a run without becoming the answer to another question.
_QUESTION = 1

AnswerKey = tuple[str, str, str, str, str, int]


@dataclass(frozen=True)
class RunSpec:
    """Everything that determines a run's result."""

    protocol: Protocol
    data: DataIdentity  # what `data_identity` gives; of a run that is to leave a record, `data_record`
    assigner: str  # its registered name
    options: dict[str, Any]  # all of them, defaults included, as plain JSON values
    seed: int  # of initialisation, data order, augmentation and assigner noise

    @property
    def question(self) -> dict[str, Any]:
        """What the run's id is the hash of, as plain JSON values."""
        data = self.data
        return {
            "schema": _QUESTION,
            "protocol": self.protocol.content(),
            "data": {
                "title": data.title,
                "train": [data.train.split, data.train.checksum],
                "val": [data.val.split, data.val.checksum],
            },
            "assigner": self.assigner,
            "options": self.options,
            "seed": self.seed,
        }

    @property
    def run_id(self) -> str:
        """``assigner-protocol-s<seed>-<hash>``; the hash covers `question`, the words are for people."""
        base = self.protocol.name.partition("+")[0]  # overrides are long; the hash tells them apart
        return f"{slug(self.assigner)}-{slug(base)}-s{self.seed}-{canonical_hash(self.question, 10)}"


_NOTHING = SplitIdentity(split="", images=0, checksum="")
UNKNOWN = DataIdentity(kind="", title="", classes=[], train=_NOTHING, val=_NOTHING)  # data that nobody has named yet


def data_identity(kind: str, train: ImageSet, val: ImageSet) -> DataIdentity:
    """Which data a run has. No image is described for it, which takes a procedural set a while.

    Args:
        kind: the reader, as ``--data`` begins with it.
    """
    return DataIdentity(
        kind=kind, title=train.title, classes=list(train.classes), train=_identity(train), val=_identity(val)
    )


def data_record(kind: str, train: ImageSet, val: ImageSet) -> DataPart:
    """The same with how many boxes it has and what was left out of it."""
    return DataPart(
        kind=kind, title=train.title, classes=list(train.classes), train=split_record(train), val=split_record(val)
    )


def split_record(images: ImageSet) -> SplitPart:
    """What a record says of one split."""
    boxes = sum(len(images.annotations(index).boxes) for index in range(len(images)))
    return SplitPart(**dict(_identity(images)), boxes=boxes, warnings=dict(images.warnings))


def _identity(images: ImageSet) -> SplitIdentity:
    return SplitIdentity(split=images.split, images=len(images), checksum=images.checksum())


def data_hash(data: DataIdentity) -> str:
    """Eight digits for the images and objects that a run saw, both splits."""
    return canonical_hash([data.train.checksum, data.val.checksum], 8)


class Question(NamedTuple):
    """What runs that may be compared have in common."""

    protocol: str  # name
    protocol_hash: str
    data: str  # title
    data_hash: str

    @property
    def key(self) -> tuple[str, str]:
        """What decides: names may differ, hashes may not."""
        return self.protocol_hash, self.data_hash

    def goes_by(self, protocol: str | None, data: str | None = None) -> bool:
        """Whether these are its names or its hashes; None is any."""
        return protocol in (None, self.protocol, self.protocol_hash) and data in (None, self.data, self.data_hash)


def question_of(run: RunRecord | RunSpec) -> Question:
    """The question that a run answers: its protocol and its data."""
    digest = run.protocol.hash if isinstance(run, RunRecord) else run.protocol.digest
    return Question(run.protocol.name, digest, run.data.title, data_hash(run.data))


def answer_key(
    assigner: str, changed: Mapping[str, Any], protocol_hash: str, data: DataIdentity, seed: int
) -> AnswerKey:
    """What two runs have in common exactly where one stands for the other.

    Args:
        changed: options that differ from today's defaults.
    """
    return assigner, canonical_hash(dict(changed)), protocol_hash, data.train.checksum, data.val.checksum, seed


def training_key(
    assigner: str, options: Mapping[str, Any], content: Mapping[str, Any], data: DataIdentity, seed: int
) -> str:
    """What two runs have in common exactly where one's weights are the other's, however they are evaluated.

    Args:
        options: all of them, or those that differ from today's defaults, for both runs alike.
        content: of the protocol. Training reads all of it but the evaluation, of which only the times are part of it.
    """
    training = {**content, "evaluation": content["evaluation"]["every"]}
    return canonical_hash([assigner, dict(options), training, data.train.checksum, seed])


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """What makes one run another: a phrase for each part of what their ids are the hash of.

    Args:
        theirs, mine: as `RunSpec.question` gives them.
    """
    phrases = []
    data, here = theirs["data"], mine["data"]
    if data["title"] != here["title"]:
        phrases.append(f"data set {data['title']}, not {here['title']}")
    for role, name in {"train": "training", "val": "validation"}.items():
        (split, checksum), (my_split, my_checksum) = data[role], here[role]
        if split != my_split:
            phrases.append(f"{name} split {split}, not {my_split}")
        elif checksum != my_checksum:
            phrases.append(f"other images or annotations in the {name} split")
    old, new = ({**dotted(question["protocol"]), **question["options"]} for question in (theirs, mine))
    for key in sorted({*old, *new}):
        value, my_value = old.get(key, "absent"), new.get(key, "absent")
        if value != my_value:
            phrases.append(f"{key} {shorten(str(value), 60)}, not {shorten(str(my_value), 60)}")
    return phrases


def trained_alike(theirs: Mapping[str, Any] | None, mine: Mapping[str, Any]) -> bool:
    """Whether two runs differ at most in what the validation split, of the same name, holds."""
    if theirs is None or theirs["data"]["val"][0] != mine["data"]["val"][0]:
        return False
    return _without_validation(theirs) == _without_validation(mine)


def _without_validation(question: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the weights; and how they are evaluated, but for the images."""
    data = {key: value for key, value in question["data"].items() if key != "val"}
    return {**question, "data": data}
