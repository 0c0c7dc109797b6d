"""One annotation file of VOC's layout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from harness.core.errors import UserError
from harness.data.readers.folder import MAX_SIDE
from harness.data.readers.reading import read_bytes

FLAGS = {"": False, "0": False, "1": True, "false": False, "true": True}  # empty in some exports: not difficult


@dataclass(frozen=True)
class Annotation:
    """What a file says, as it stands there.

    Attributes:
        content: its bytes.
        size: ``(height, width)`` of the image; None where the file has none, or zeros.
        names, corners, difficult: of each object; corners are xmin, ymin, xmax, ymax.
    """

    content: bytes
    size: tuple[int, int] | None
    names: tuple[str, ...]
    corners: tuple[tuple[float, ...], ...]
    difficult: tuple[bool, ...]


def parse(path: Path) -> Annotation:
    """Read a file. Namespaces and the case of tags mean nothing here; entities are refused: they can read files and
    grow without bound.

    Raises:
        UserError: for anything that is missing or wrong; the line names file and object.
    """
    content = read_bytes(path, "annotation file")
    try:
        tree: Element = ElementTree.fromstring(content.lstrip())  # a blank line before the declaration is common
    except (ParseError, ValueError, LookupError) as error:
        reason = type(error).__name__ if isinstance(error, DefusedXmlException) else str(error)
        raise UserError(f"annotation file {path} is not plain well-formed XML: {reason}") from error
    for element in tree.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2].lower()
    if tree.tag != "annotation":
        raise UserError(f"annotation file {path} is no VOC annotation: it begins with <{tree.tag}>, not <annotation>")
    names, corners, difficult = [], [], []
    for number, item in enumerate(tree.findall("object"), start=1):
        where = f"annotation file {path}, object {number}"
        name, box = (item.findtext("name") or "").strip(), item.find("bndbox")
        if not name or box is None:
            raise UserError(f"{where} has no '{'bndbox' if name else 'name'}'")
        names.append(name)
        corners.append(tuple(_number(box, key, where) for key in ("xmin", "ymin", "xmax", "ymax")))
        mark = (item.findtext("difficult") or "").strip()
        if mark.lower() not in FLAGS:
            raise UserError(f"{where}: 'difficult' must be 0 or 1, got {mark!r}")
        difficult.append(FLAGS[mark.lower()])
    return Annotation(content, _size(tree, path), tuple(names), tuple(corners), tuple(difficult))


def _size(tree: Element, path: Path) -> tuple[int, int] | None:
    element = tree.find("size")
    if element is None or not any((element.findtext(key) or "").strip() for key in ("height", "width")):
        return None
    height, width = (_number(element, key, f"annotation file {path}, size") for key in ("height", "width"))
    if height == 0 or width == 0:
        return None
    if not all(0 < side <= MAX_SIDE and side == int(side) for side in (height, width)):
        raise UserError(f"annotation file {path}: size must be whole numbers above 0, got {width:g}x{height:g}")
    return int(height), int(width)


def _number(parent: Element, key: str, where: str) -> float:
    text = parent.findtext(key)
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {key!r} must be a number, got {text!r}")
    return value
