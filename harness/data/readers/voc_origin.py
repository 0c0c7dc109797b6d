"""From which number a set in VOC's layout counts its pixels: tools write the same files from 0 and from 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.data.readers.voc_xml import Annotation


@dataclass(frozen=True)
class Origin:
    """How a set counts its pixels.

    Attributes:
        first: number of the first pixel: 1 for VOC.
        last_inside: whether xmax and ymax name the last pixel of the box, as VOC's do, or the edge behind it.
    """

    first: int
    last_inside: bool

    @classmethod
    def of(
        cls, annotations: Iterable[Annotation], sizes: Callable[[], Sequence[tuple[Annotation, tuple[int, int]]]]
    ) -> Origin:
        """By where boxes begin: whoever counts from 1 has none at 0, and those at the left and upper edge begin at 1.

        Where more begin at 0, and more than one does, the set counts from there. Its boxes then end at the image's
        sides, which are edges, or, where more end one before, at the last pixel.

        Args:
            sizes: gives each annotation with its image's ``(height, width)``; asked where it matters.
        """
        begin = np.array([corner[:2] for annotation in annotations for corner in annotation.corners]).reshape(-1)
        zeros = int((begin == 0).sum())
        if zeros < 2 or zeros <= (begin == 1).sum():
            return cls(1, True)
        pairs = [(corner[2:], size) for annotation, size in sizes() for corner in annotation.corners]
        end = np.array([corner for corner, _ in pairs]).reshape(-1, 2)
        side = np.array([size[::-1] for _, size in pairs]).reshape(-1, 2)
        return cls(0, bool((end == side - 1).sum() > (end == side).sum()))

    @property
    def usual(self) -> bool:
        """Whether this is VOC's own."""
        return self == Origin(1, True)

    def edges(self, corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Continuous corners ``[n, 4]`` of rows xmin, ymin, xmax, ymax."""
        far = 1 - self.first if self.last_inside else 0
        return corners + np.array((-self.first, -self.first, far, far), dtype=np.float64)

    def __str__(self) -> str:
        return f"counted from {self.first}, xmax {'inside' if self.last_inside else 'behind'}"
