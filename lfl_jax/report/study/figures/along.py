"""Learning and forgetting while a run trains, of each method at its best learning rate."""

import functools
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lfl_jax.report.study import tables
from lfl_jax.report.study.figures.style import INK, Figure, Look, draw_legend, looks
from lfl_jax.studies.along import Course, Courses
from lfl_jax.studies.findings import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


def along(findings: Findings) -> Figure | None:
    """None where nothing was evaluated during training."""
    if findings.courses is None:
        return None
    return Figure(
        "along",
        "On the way",
        "Each method at the learning rate where it learned most, on dev items, since the base: the"
        " mean over seeds, and the band from the lowest to the highest of them. Hollow: the"
        " schedule is not finished, so that the learning rate is still high.",
        tables.along(findings),
        functools.partial(_paint, findings, findings.courses),
        (5.4, 4.6),
    )


def _paint(findings: Findings, courses: Courses, canvas: "Canvas") -> None:
    above, below = canvas.subplots(2, 1, sharex=True)
    drawn = looks(findings.grids)
    for method, course in courses.by_method.items():
        label = f"{method}, {course.cell.mark}"
        _draw_course(above, course, course.learned, drawn[method], label)
        _draw_course(below, course, course.forgotten, drawn[method], label)
    for axes in (above, below):
        axes.axhline(0, color=INK, lw=0.8, zorder=0)
    above.set(ylabel=f"learned since the base\n{courses.learning}")
    below.set(ylabel=f"forgotten\n{courses.forgetting}", xlabel="optimizer steps")
    _use_steps(below, np.concatenate([course.steps for course in courses.by_method.values()]))
    draw_legend(canvas, above)


def _draw_course(
    axes: "Axes", course: Course, by_seed: Float[np.ndarray, "S N"], look: Look, label: str
) -> None:
    mean = by_seed.mean(axis=0)
    axes.fill_between(
        course.steps, by_seed.min(axis=0), by_seed.max(axis=0), color=look.colour, alpha=0.14, lw=0
    )
    style = {"color": look.colour, "marker": look.marker, "ms": 5.5}
    axes.plot(course.steps, mean, **style, mfc="none", zorder=2)
    finished = course.steps == course.cell.step
    # In the legend as it is drawn at its end.
    axes.plot(course.steps[finished], mean[finished], **style, label=label, zorder=3)


def _use_steps(axes: "Axes", steps: np.ndarray) -> None:
    """From 0 on, and by powers of ten where the steps are many."""
    from matplotlib.ticker import FuncFormatter

    if steps.max() <= 10:
        return
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(-0.1, steps.max() * 1.15)
