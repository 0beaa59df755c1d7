"""The figures of an analysis, in the style of a study's, each with the table it is drawn from.

A new figure is a file here and a line in FIGURES.
"""

import dataclasses
from collections.abc import Callable

from lfl_jax.report.analysis.figures.intruders import intruders
from lfl_jax.report.analysis.figures.ranks import effective_rank, k90
from lfl_jax.report.analysis.figures.similarity import similarity
from lfl_jax.report.analysis.figures.singular_values import singular_values
from lfl_jax.report.analysis.figures.spectrum import spectrum
from lfl_jax.report.analysis.measured import Analysis
from lfl_jax.report.study.figures.style import Figure

# In the order of the page. A figure that there is nothing for is None.
FIGURES: dict[str, Callable[[Analysis], Figure | None]] = {
    "spectrum": spectrum,
    "k90": k90,
    "effective_rank": effective_rank,
    "singular_values": singular_values,
    "intruders": intruders,
    "similarity": similarity,
}


def draw(analysis: Analysis) -> list[Figure]:
    """Every figure that there is something to draw for, with the reservations in it."""
    figures = [make(analysis) for make in FIGURES.values()]
    return [dataclasses.replace(figure, flags=analysis.flags) for figure in figures if figure]
