"""Every contrast's effect and interval beside the margin and the noise floor."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lfl_jax.report.study import tables
from lfl_jax.report.study.figures.style import (
    COLOURS,
    INK,
    NOISE,
    NOISE_LABEL,
    SMALL,
    Figure,
    draw_legend,
)
from lfl_jax.studies.answers import PRIMARY, Answer
from lfl_jax.studies.findings import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

ROW = 0.36  # inches


def contrasts(findings: Findings) -> Figure | None:
    """A forest plot; None where no contrast could be computed."""
    answers = [answer for answer in findings.answers if answer.decision is not None]
    if not answers:
        return None
    height = 1.3 + ROW * len(answers)
    return Figure(
        "contrasts",
        "Contrasts",
        "The first method's forgetting less the second's, with its 95 % interval. Shaded: the"
        f" margin of {findings.question.margin:g}. Dotted: {NOISE}, which"
        " a comparison of single runs could not tell from nothing. Blue: the primary contrasts,"
        " declared beforehand.",
        tables.verdicts(findings),
        functools.partial(_paint, findings, answers),
        (height, height),
    )


def _paint(findings: Findings, answers: Sequence[Answer], canvas: "Canvas") -> None:
    axes = canvas.subplots()
    margin = findings.question.margin
    axes.axvspan(-margin, margin, color=INK, alpha=0.14, lw=0, label=f"margin {margin:g}")
    reach = 2 * findings.noise_floor.forgetting
    # The first contrast stands on top.
    for height, answer in enumerate(reversed(answers)):
        # Lines of one row each: through all of them, they would cross the rows' texts.
        ends = (height - 0.18, height + 0.18)
        axes.vlines(0, *ends, color=INK, lw=0.8)
        if reach > 0:
            label = NOISE_LABEL if height == 0 else None
            axes.vlines((-reach, reach), *ends, color=INK, lw=1.2, ls=":", label=label)
        _draw_contrast(axes, answer, height)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.set(
        xlabel=f"difference in forgetting ({findings.label(findings.question.measures.forgetting)})"
    )
    axes.set_ylim(-0.4, len(answers) - 0.2)
    draw_legend(canvas, axes)


def _draw_contrast(axes: "Axes", answer: Answer, height: int) -> None:
    colour = COLOURS[0] if answer.equal == PRIMARY else INK
    effect = answer.decision.effect
    axes.plot(effect.interval(), [height, height], color=colour, lw=2)
    axes.plot(effect.mean, height, "o", color=colour, ms=6)
    # Above its interval and not beside it: a paper's column has no room for names on the left.
    text = f"{answer.first} – {answer.second}, {_equal(answer)}: {answer.decision.verdict}"
    beside = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": SMALL}
    axes.annotate(text, (0.01, height + 0.45), color=colour, **beside)


def _equal(answer: Answer) -> str:
    return f"at each one's {answer.equal}" if answer.is_at_best else f"at equal {answer.equal}"
