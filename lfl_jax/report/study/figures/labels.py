"""Labels of points that cover nothing."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from lfl_jax.report.study.figures.style import CHARACTER, INK, POINTS, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def label_points(
    axes: "Axes", labels: Sequence[tuple[float, float, str]], points: Float[np.ndarray, "N 2"]
) -> None:
    """Write each (x, y, text) beside its point, where it covers no other point and no label.

    A label that fits nowhere is left out: the figure's data has it.
    """
    canvas = axes.get_figure()
    # Only the layout says where points are on the paper; labels must not change it any more.
    canvas.draw_without_rendering()
    per_point = canvas.dpi / POINTS
    drawn = axes.transData.transform(points) / per_point
    boxes: list[Box] = []
    inside = Box(*(axes.get_window_extent().extents / per_point))
    for x, y, text in labels:
        anchor = axes.transData.transform((x, y)) / per_point
        box = _free(anchor, len(text) * CHARACTER * SMALL, drawn, boxes, inside)
        if box is not None:
            boxes.append(box)
            offset = (box.left - anchor[0], box.bottom - anchor[1])
            label = axes.annotate(
                text, (x, y), offset, textcoords="offset points", fontsize=SMALL, color=INK
            )
            label.set_in_layout(False)


class Box(NamedTuple):
    """Of a label, in points."""

    left: float
    bottom: float
    right: float
    top: float

    def holds(self, points: Float[np.ndarray, "N 2"]) -> bool:
        """Whether any of the points lies inside."""
        low, high = np.array(self[:2]), np.array(self[2:])
        return bool(np.any(np.all((points > low) & (points < high), axis=1)))

    def overlaps(self, other: "Box") -> bool:
        """Whether the two share any area."""
        beside = self.right < other.left or other.right < self.left
        return not (beside or self.top < other.bottom or other.top < self.bottom)

    def is_within(self, other: "Box") -> bool:
        """Whether all of it lies inside of the other."""
        left_or_low = self.left < other.left or self.bottom < other.bottom
        return not (left_or_low or self.right > other.right or self.top > other.top)

    def grown(self, by: float) -> "Box":
        """With a margin on all sides."""
        return Box(self.left - by, self.bottom - by, self.right + by, self.top + by)


def _free(
    anchor: Float[np.ndarray, " 2"],
    width: float,
    points: Float[np.ndarray, "N 2"],
    boxes: Sequence[Box],
    inside: Box,
) -> Box | None:
    """The first box around the anchor that covers nothing."""
    away, height = 5.0, SMALL * 1.1
    # Above right first, then clockwise: the order in which readers look for a point's label.
    lefts_and_bottoms = (
        (away, away),
        (away, -height / 2),
        (away, -away - height),
        (-width / 2, -away - height),
        (-away - width, -away - height),
        (-away - width, -height / 2),
        (-away - width, away),
        (-width / 2, away),
    )
    for left, bottom in lefts_and_bottoms:
        corner = anchor + np.array([left, bottom])
        box = Box(*corner, corner[0] + width, corner[1] + height)
        taken = box.grown(3.0).holds(points) or any(box.overlaps(other) for other in boxes)
        if box.is_within(inside) and not taken:
            return box
    return None
