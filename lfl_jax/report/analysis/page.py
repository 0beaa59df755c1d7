"""The page of an analysis: one HTML file, with its figures, tables and Parquet file beside it."""

import platform
from importlib.metadata import version
from pathlib import Path

from lfl_jax.core import files
from lfl_jax.report import html
from lfl_jax.report.analysis import figures as drawing
from lfl_jax.report.analysis import parquet, tables
from lfl_jax.report.analysis.measured import Analysis
from lfl_jax.report.analysis.measures import MEASURES

TEMPLATE = "analysis/page.html"
METHODS = (
    "dW is what was added to each weight: of a low-rank adapter its factors' product, which is"
    " never formed, else the difference in float32. Everything is then computed in float64.",
    "A random change is the null of every rank: a Gaussian matrix of the same shape, or a product"
    " of Gaussian factors of the adapter's rank. A rank says something of training only where it"
    " differs from that. For intruders the null has dW's own singular values, in random directions."
    " Degenerate singular values have no directions of their own; subspaces are compared instead.",
)


def write(analysis: Analysis, command: str, folder: Path) -> Path:
    """index.html, figures/, tables/ and weights.parquet; UserError without the extra `study`."""
    html.require_extra()
    figures, main = drawing.draw(analysis), tables.main(analysis)
    # Without rows there is nothing to read: one checkpoint has no growth.
    filled = [table for table in tables.all_of(analysis) if table.rows]
    # A report that was killed is written again, and its folder is then as if it had not been.
    files.remove_partial(folder)
    # Each drawing is rendered once, for the page and for its file.
    drawn = [figure.svg() for figure in figures]
    of_figures = [figure.data for figure in figures]
    html.write_parts(figures, drawn, [main, *filled, *of_figures], folder)
    parquet.write(analysis, folder / parquet.FILE)
    page = html.render(
        TEMPLATE,
        title=f"{analysis.title}: what training did to the weights",
        subtitle=subtitle(analysis),
        flags=analysis.flags,
        notes=analysis.notes,
        main=tables.by_module_beside_nulls(analysis),
        figures=list(map(html.embedded, figures, drawn)),
        tables=filled,
        measures=MEASURES,
        methods=METHODS,
        command=command,
        versions=_versions(),
    )
    files.write_text(folder / "index.html", page)
    return folder / "index.html"


def subtitle(analysis: Analysis) -> str:
    """What was compared with what."""
    label = analysis.labels[-1]
    of_several = f", the last of {len(analysis.labels)} checkpoints" if analysis.is_several else ""
    name = "" if label == analysis.title else f"{label}{of_several}: "
    return f"{name}{len(analysis.last)} weights that changed, against {analysis.base}"


def _versions() -> str:
    return (
        f"lfl_jax {version('lfl_jax')}, numpy {version('numpy')}, scipy {version('scipy')},"
        f" Python {platform.python_version()}"
    )
