"""Data sources by name, resolved lazily: listing them imports no reader.

Built-in sources stand in `_BUILTIN`. Other packages add theirs through the entry-point group ``assigner_zoo.data``: the
name is what stands before the colon of ``--data NAME:DIR``, the value a function that takes an `Opening` and returns an
`ImageSet`. A name that two of them claim raises when it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from harness.core.errors import UserError, did_you_mean
from harness.data.default_splits import Role

if TYPE_CHECKING:
    from harness.data.base import ImageSet
    from harness.protocol.protocol import DataSection

ENTRY_POINT_GROUP = "assigner_zoo.data"
EMBEDDED = "shapes"  # what is run on where nothing is named


@dataclass(frozen=True)
class Opening:
    """One split that is to be opened.

    Attributes:
        folder: of the data set, as typed; empty for a source without one.
        data: the protocol's section.
        role: whether it is trained on or evaluated on.
        annotated: refuse images without annotations, which can be neither learnt nor evaluated.
    """

    folder: str
    data: DataSection
    role: Role
    annotated: bool = True

    @property
    def split(self) -> str | None:
        """Its name; None for the data set's own default."""
        return self.data.train_split if self.role == "train" else self.data.val_split

    @property
    def other(self) -> str | None:
        """The split of the other role, with which a default one must not overlap."""
        return self.data.val_split if self.role == "train" else self.data.train_split

    @property
    def limit(self) -> int | None:
        """How many of its images count; None for all."""
        return self.data.train_images if self.role == "train" else self.data.val_images


@dataclass(frozen=True)
class Source:
    """One source of the catalogue.

    Attributes:
        name: before the colon of ``--data``.
        what: in a line.
        target: ``module:function``, from an `Opening` to an `ImageSet`.
        folder: whether it reads one; its images are then named by their paths, which no record holds.
        protocol: where none is named.
        place: what stands behind the colon, where it reads a folder or a file.
    """

    name: str
    what: str
    target: str
    folder: bool = True
    protocol: str = "small"
    place: str = "DIR"

    @property
    def spec(self) -> str:
        """As ``--data`` takes it."""
        return f"{self.name}:{self.place}" if self.folder else self.name

    def open(self, asked: Opening) -> ImageSet:
        """Import the reader and open a split.

        Raises:
            UserError: whatever it finds.
        """
        module, _, function = self.target.partition(":")
        reader: Callable[[Opening], ImageSet] = getattr(import_module(module), function)
        return reader(asked)


# fmt: off
_BUILTIN = (
    Source("shapes", "procedural shapes, drawn on the fly at data.short_edge px; nothing to download",
           "harness.data.shapes.shapes:open_shapes", folder=False, protocol="shapes-cpu"),
    Source("coco",
           "COCO instances: DIR/annotations/[instances_]SPLIT.json, DIR/[images/]SPLIT/; or "
           "DIR/SPLIT/_annotations.coco.json",
           "harness.data.readers.coco:open_source"),
    Source("voc",
           "PASCAL VOC: DIR/Annotations, DIR/JPEGImages, DIR/ImageSets/Main/SPLIT.txt, or folders of these by year",
           "harness.data.readers.voc:open_source"),
    Source("wider", "WIDER FACE: DIR/wider_face_split/wider_face_SPLIT_bbx_gt.txt, DIR/WIDER_SPLIT/images/",
           "harness.data.readers.wider:open_source"),
    Source("yolo",
           "YOLO: DIR/data.yaml (Ultralytics) or DIR/*.data (Darknet), or DIR/images/SPLIT/ and DIR/labels/SPLIT/",
           "harness.data.readers.yolo:open_source"),
    Source("csv",
           "table of boxes: path,x1,y1,x2,y2,class_name (RetinaNet) or Open Images' header, val.csv beside train.csv",
           "harness.data.readers.csv_tables:open_source", place="FILE"),
)
# fmt: on


SPECS = " or ".join(", ".join(source.spec for source in _BUILTIN).rsplit(", ", 1))  # for helps: without plugins


def sources() -> list[Source]:
    """Every known source, built-in ones first."""
    return [*_BUILTIN, *(Source(p.name, f"plugin of {_origin(p)}", p.value) for p in _plugins())]


def find_source(spec: str) -> Source:
    """The source that a ``--data`` names.

    Raises:
        UserError: for an unknown one, with the nearest known name, for a folder where there is none or none where there
            must be one, and for a name that two packages claim.
    """
    name, _, folder = spec.partition(":")
    fitting = [source for source in sources() if source.name == name and source.folder == bool(folder)]
    if len(fitting) > 1:
        claims = " and ".join(source.target for source in fitting)
        raise UserError(f"data source {name!r} is claimed by {claims}; uninstall or rename one")
    if not fitting:
        names = [source.name for source in sources()]
        hint = "" if name in names else did_you_mean(name, names)
        raise UserError(f"unknown data source {spec!r}{hint}; use one of {', '.join(s.spec for s in sources())}")
    return fitting[0]


def default_protocol(spec: str) -> str:
    """The protocol for a source where none is named; what cannot be opened is told when it is."""
    name = spec.partition(":")[0]
    return next((source.protocol for source in sources() if source.name == name), Source.protocol)


def spec_of(kind: str) -> str:
    """How ``--data`` names data of a record's kind."""
    return next((source.spec for source in sources() if source.name == kind), f"{kind}:DIR")


def needs_folder(kind: str) -> bool:
    """Whether data of a record's kind lie in a folder; so do those of a source that is not installed here."""
    return all(source.folder for source in sources() if source.name == kind)


@cache
def _plugins() -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: (p.name, p.value)))


def _origin(plugin: EntryPoint) -> str:
    return plugin.dist.name if plugin.dist is not None else plugin.value
