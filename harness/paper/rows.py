"""Every row of the paper's Tables 1-8 as a run: an assigner, and what else the row changes of its table's protocol.

Gains are over the row that the paper itself measures from, or over its final method where a table varies that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from harness.core.errors import UserError

Backbone = Literal["resnet101", "resnext101_64x4d"]
Kind = Literal["coco", "voc", "wider"]

_CENTERNESS = ("model.quality=centerness",)


@dataclass(frozen=True)
class PaperRow:
    """One row."""

    name: str  # the published row's number, with a letter where several runs may be meant by it
    assigner: str  # as ``--assigner`` takes it
    reference: str  # name of the row that the gain is over; its own for that row itself
    overrides: tuple[str, ...] = ()  # of the protocol, equal at every scale
    backbone: Backbone | None = None  # as printed; None is the protocol's own
    deformable: bool = False  # deformable convolution in C3-C5
    multi_scale: bool = False  # tested at several scales, mirrored too
    kind: Kind = "coco"  # of the data
    note: str = ""  # how the printed row is read

    @property
    def published(self) -> str:
        """The number of the published row."""
        return self.name.rstrip("abc")


@dataclass(frozen=True)
class Table:
    """One table."""

    number: int  # in the paper
    title: str  # what it is about
    rows: tuple[PaperRow, ...]  # in printed order
    base: tuple[int, str] | None = None  # (table, row) with the AP of the reference row, where this table's is lost
    same_images: bool = True  # whether the paper evaluates on images whose annotations are public
    notes: tuple[str, ...] = ()  # how the table is read

    def row(self, name: str) -> PaperRow:
        """By name.

        Raises:
            UserError: if there is none.
        """
        known = {row.name: row for row in self.rows}
        if name not in known:
            raise UserError(f"table {self.number} has no row {name!r}; its rows: {', '.join(known)}")
        return known[name]


def _each(reference: str, *assigners: str, first: int = 1, **alike: Any) -> tuple[PaperRow, ...]:
    """A row for each assigner, numbered from `first`, with what they have `alike`."""
    return tuple(PaperRow(str(number), name, reference, **alike) for number, name in enumerate(assigners, first))


def _losses() -> tuple[PaperRow, ...]:
    """Table 6: a loss in place of the IoU, in both readings of the text."""
    rows = []
    for number, target in enumerate(("cls", "reg", "comb"), 1):
        learned = f"iqdet[iq_target={target}]"
        selected = f"iqdet[iq_target={target},select_by=loss]"
        rows += [
            PaperRow(f"{number}a", learned, "4", note="the loss is what Q learns"),
            PaperRow(f"{number}b", selected, "4", note="positives by the smallest loss, too"),
        ]
    return (*rows, PaperRow("4", "iqdet", "4"))


def _state_of_the_art() -> tuple[PaperRow, ...]:
    """Table 7: each block of one detector against its first row that is a rule of geometry."""
    geometry, others = ("center", "free_anchor"), ("sapd", "atss", "paa", "iqdet")
    large: Backbone = "resnext101_64x4d"
    return (
        *_each("1", *geometry, *others, backbone="resnet101"),
        *_each("7", *geometry, *others, first=7, backbone=large),
        *_each("14", *others, first=13, backbone=large, deformable=True),
        *_each("17", *others[1:], first=17, backbone=large, deformable=True, multi_scale=True),
    )


def _other_data() -> tuple[PaperRow, ...]:
    """Table 8: the VOC columns as rows 1-4, those of WIDER FACE as rows 5-8."""
    assigners = ("center", "atss", "paa", "iqdet")
    return (*_each("1", *assigners, kind="voc"), *_each("5", *assigners, first=5, kind="wider"))


_ONE_BRANCH = "All rows have the detector's IoU branch, also FCOS and ATSS, whose authors have centerness in its place."

TABLES = {
    table.number: table
    for table in (
        Table(
            1,
            "quality distribution encoder (QDE) and sampling (QDS)",
            (
                PaperRow("1", "center", "1", _CENTERNESS),
                PaperRow("2", "center", "1"),
                PaperRow("3", "uniform", "1", note="QDE without QDS: uniform draws, the best by Q"),
                PaperRow("4", "uniform_center", "1", note="QDS without QDE: float draws from the center region"),
                PaperRow("5", "iqdet", "1"),
            ),
            base=(2, "1"),
            notes=("The paper's gains are over 38.7 AP, as its text has them and Table 2 prints; row 1's AP is lost.",),
        ),
        Table(
            2,
            "learnable parameters of the quality distribution",
            (
                PaperRow("1", "center", "1", _CENTERNESS, note="the center region is FCOS with centerness"),
                PaperRow("2", "fixed_qd", "1", note="nothing learned; the paper does not print the fixed values"),
                *_each("1", "iqdet[learn=mu]", "iqdet[learn=mu_sigma]", "iqdet", first=3),
            ),
        ),
        Table(
            3,
            "RoI feature extractor of the encoder",
            (
                PaperRow("1", "iqdet[extractor=roi_pool]", "3"),
                PaperRow(
                    "2", "iqdet[extractor=roi_align_mean]", "3", note="pooled: the mean over the bins of RoIAlign"
                ),
                *_each("3", "iqdet", "iqdet[roi=3]", "iqdet", "iqdet[roi=14]", first=3),
            ),
        ),
        Table(4, "sampling strategies", _each("1", "uniform", "qd", "iqdet")),
        Table(5, "number of positives", _each("3", *(f"iqdet[positives={k}]" for k in (4, 8, 12, 16, 20)))),
        Table(
            6,
            "target of the quality distribution",
            _losses(),
            notes=("The text has two readings; a: the loss alone takes the IoU's place, b: it selects positives too.",),
        ),
        Table(
            7,
            "state of the art",
            _state_of_the_art(),
            same_images=False,
            notes=(
                "Gains are within a block of one backbone, over FCOS, and over ATSS where FCOS is not printed.",
                "FCOS is that of the journal version, with center sampling.",
                _ONE_BRANCH,
                "The paper evaluates on COCO test-dev, whose annotations are not public; ours is the validation split.",
            ),
        ),
        Table(
            8, "PASCAL VOC and WIDER FACE", _other_data(),
            notes=("Gains are over FCOS on the same data.", _ONE_BRANCH),
        ),
    )
}  # fmt: skip


def table(number: str) -> Table:
    """By its number, as typed.

    Raises:
        UserError: if the paper has none of that number.
    """
    if not number.isdecimal() or len(number) > 3 or int(number) not in TABLES:
        raise UserError(f"no table {number!r}; the paper's tables are 1 to {max(TABLES)}")
    return TABLES[int(number)]
