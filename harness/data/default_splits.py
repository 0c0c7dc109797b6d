"""Which split is trained on and which evaluated where the user names none: by exact names, and never two that overlap.

`harness.data.splits` counts what two splits share by image; here names alone decide.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

Role = Literal["train", "val"]


class Pair(NamedTuple):
    """Two splits that may go together; each is one name or several, of which those that are there are joined."""

    train: tuple[str, ...]
    val: tuple[str, ...]

    def side(self, role: Role, available: Collection[str]) -> tuple[str, ...]:
        """What there is of the split of a role."""
        return tuple(name for name in (self.train if role == "train" else self.val) if name in available)


def default_split(
    role: Role, other: Sequence[str] | None, pairs: Sequence[Pair], available: Collection[str]
) -> tuple[str, ...]:
    """The split of a role, in its parts; nothing where names do not tell.

    Args:
        role: whose split is not named.
        other: the parts of the other role's split where that is named.
        pairs: by preference.
        available: all names.
    """
    opposite: Role = "val" if role == "train" else "train"
    sides = [pair.side(role, available) for pair in pairs]
    if other is not None:
        return next((side for side in sides if side and not _nested(side, other)), ())
    partners = [pair.side(opposite, available) for pair in pairs]
    for side, partner in zip(sides, partners, strict=True):
        if side and partner:
            return side
    # No pair is whole. Evaluation has the first word, and nothing is trained on that lies within that.
    taken = next(filter(None, partners), ()) if role == "train" else ()
    return next((side for side in sides if side and not _nested(side, taken)), ())


def undecided(role: Role) -> str:
    """What to do where names do not tell the split of a role."""
    return (
        f"name one with --{role}-split that shares no image with the other, or leave shared ones out with "
        "--set data.overlap=drop"
    )


def _nested(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether two splits share images by what their names say: the same one, or trainval and a part of it."""
    return any(_within(a, b) or _within(b, a) for a in first for b in second)


def _within(part: str, whole: str) -> bool:
    (part_folder, part_word), (whole_folder, whole_word) = map(_word, (part, whole))
    return part == whole or (part_folder == whole_folder and whole_word == "trainval" and part_word in ("train", "val"))


def _word(name: str) -> tuple[str, str]:
    """A split's folder, and its name without a year: ``train`` of ``train2017``."""
    folder, _, word = name.rpartition("/")
    return folder, re.sub(r"\d+$", "", word)
