"""At which size a table is made: the paper's own, half an hour of one GPU for each run, or a laptop.

A scale is a protocol for each kind of data, and what stands for the paper's backbones and test scales. Below the
paper's size only gains can be compared, never numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.core.errors import UserError, did_you_mean
from harness.paper.rows import Backbone, PaperRow, Table
from harness.protocol.protocol import load_protocol

RATIOS = (0.75, 1.0, 1.25)  # of the protocol's short edge, where multi-scale testing has no sizes of its own


@dataclass(frozen=True)
class Scale:
    """One scale."""

    name: str  # as ``--scale`` takes it
    protocols: Mapping[str, str]  # name or file of the protocol by kind of data
    data: str | None  # what COCO's tables use where nothing is named; None where they cannot do without being told
    backbones: Mapping[Backbone, str]  # timm's name for each of the paper's
    table_7: str | None = None  # the protocol of Table 7, where it is another one
    test_scales: tuple[int, ...] | None = None  # short edges of multi-scale testing, px; None for `RATIOS` of its own
    note: str = ""  # for the caption

    @property
    def full(self) -> bool:
        """Whether its numbers may be held against the paper's."""
        return self.name == "paper"

    def origin(self, table: Table, kind: str) -> str:
        """Name or file of the protocol of a table on a kind of data.

        Raises:
            UserError: for a kind that the scale has none for.
        """
        if kind not in self.protocols:
            raise UserError(f"scale {self.name} has no protocol for {kind} data; it has: {', '.join(self.protocols)}")
        return self.table_7 if table.number == 7 and self.table_7 else self.protocols[kind]

    def overrides(self, row: PaperRow, origin: str) -> tuple[str, ...]:
        """What a row changes of the protocol `origin`, as ``--set`` takes it.

        Raises:
            UserError: for a backbone that the scale has none for.
        """
        changes = [*row.overrides]
        if row.backbone is not None:
            if row.backbone not in self.backbones:
                raise UserError(f"scale {self.name} has no backbone that stands for {row.backbone}, and no table 7")
            changes.append(f"model.backbone={self.backbones[row.backbone]}")
        if row.deformable:
            changes.append("model.deformable_stages=[3,4,5]")
        if row.multi_scale:
            edge = load_protocol(origin).data.short_edge
            edges = self.test_scales or tuple(round(edge * ratio) for ratio in RATIOS)
            changes += [f"evaluation.test_scales=[{','.join(map(str, edges))}]", "evaluation.test_flip=true"]
        return tuple(changes)


_SMALL: Mapping[Backbone, str] = {"resnet101": "resnet26", "resnext101_64x4d": "resnext50_32x4d"}
_FROM_SCRATCH = "ResNet-26 and ResNeXt-50 32x4d, from scratch, stand for the paper's backbones of 101 layers."

SCALES = {
    scale.name: scale
    for scale in (
        Scale(
            "paper",
            {"coco": "paper", "voc": "paper-voc", "wider": "paper-wider"},
            None,
            {"resnet101": "resnet101.tv_in1k", "resnext101_64x4d": "resnext101_64x4d.tv_in1k"},
            table_7="paper-180k",
            test_scales=(400, 500, 600, 640, 700, 800, 900, 1000, 1100, 1200, 1300, 1400, 1800),
        ),
        Scale(
            "gpu-30min",
            dict.fromkeys(("shapes", "coco", "voc", "wider"), "gpu-30min"),
            "shapes",
            {"resnet101": "resnet50", "resnext101_64x4d": "resnext50_32x4d"},
            note="ResNet-50 and ResNeXt-50 32x4d stand for the paper's backbones of 101 layers.",
        ),
        Scale(
            "cpu",
            {"shapes": "shapes-cpu", "coco": "small", "voc": "small", "wider": "small"},
            "shapes",
            _SMALL,
            note=_FROM_SCRATCH,
        ),
        Scale("board", {"shapes": "shapes-board"}, "shapes", _SMALL, note=_FROM_SCRATCH),
        Scale(
            "real",
            dict.fromkeys(("coco", "voc", "wider"), "real-cpu"),
            None,
            {},
            note="EfficientNet-Lite0 at 192 px from ImageNet weights; without Table 7, for want of weights of others.",
        ),
    )
}


def scale(name: str) -> Scale:
    """By name.

    Raises:
        UserError: for an unknown one.
    """
    if name not in SCALES:
        raise UserError(f"unknown scale {name!r}{did_you_mean(name, SCALES)}; known: {', '.join(SCALES)}")
    return SCALES[name]
