"""The figures of a study, in one style, each with the table it is drawn from.

A new figure is a file here and a line in FIGURES.
"""

import dataclasses
from collections.abc import Callable, Sequence

from lfl_jax.report.study.figures.along import along
from lfl_jax.report.study.figures.contrasts import contrasts
from lfl_jax.report.study.figures.curvature import curvature
from lfl_jax.report.study.figures.divergence import divergence, explained
from lfl_jax.report.study.figures.flips import flips
from lfl_jax.report.study.figures.frontier import frontier
from lfl_jax.report.study.figures.published import published
from lfl_jax.report.study.figures.rates import rates
from lfl_jax.report.study.figures.style import Figure
from lfl_jax.report.study.figures.transfer import matrix
from lfl_jax.studies.findings import Findings

# In the order of the page. A figure that the study has nothing for is None.
FIGURES: dict[str, Callable[[Findings], Figure | None]] = {
    "transfer_matrix": matrix,
    "frontier": frontier,
    "published": published,
    "learning_rates": rates,
    "contrasts": contrasts,
    "divergence": divergence,
    "explained": explained,
    "curvature": curvature,
    "flips": flips,
    "along": along,
}
OF_OTHERS = ("published",)


def draw(findings: Findings, flags: Sequence[str] = ()) -> list[Figure]:
    """Every figure that there is something to draw for; flags stand in those of its data."""
    figures = {name: make(findings) for name, make in FIGURES.items()}
    # The paper's values have none of the study's reservations.
    return [
        figure if name in OF_OTHERS else dataclasses.replace(figure, flags=tuple(flags))
        for name, figure in figures.items()
        if figure
    ]
