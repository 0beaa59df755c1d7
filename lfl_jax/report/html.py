"""Pages of one HTML file each, without scripts: their look, their figures and tables.

A page is a template of its own; what pages share is in parts.html.
"""

import base64
from collections.abc import Sequence
from pathlib import Path

from lfl_jax.core import files
from lfl_jax.errors import UserError
from lfl_jax.report.study.figures.style import Figure
from lfl_jax.report.study.tables import Table

FOLDER = Path(__file__).parent
MOST_BYTES = 5_000_000


def require_extra() -> None:
    """UserError without the extra `study`."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(f"the report needs {error.name}: pip install 'lfl_jax[study]'") from None


def render(template: str, **values: object) -> str:
    """The page of a template, named from report/ on; UserError for one that is too large."""
    import jinja2

    # A name that the template misspells is an error and no empty place; text is escaped.
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(FOLDER),
    )
    page = environment.get_template(template).render(**values)
    # A page that mail programs and browsers open without a thought.
    if len(page.encode()) > MOST_BYTES:
        raise UserError(f"the page would have {len(page.encode())} bytes, more than {MOST_BYTES}")
    return page


def write_parts(
    figures: Sequence[Figure], drawn: Sequence[str], tables: Sequence[Table], folder: Path
) -> None:
    """figures/ and tables/ of a page, in a folder; drawn: each figure's SVG."""
    for part in ("figures", "tables"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for figure, svg in zip(figures, drawn, strict=True):
        figure.write(folder / "figures", svg)
    for table in tables:
        files.write_text(folder / "tables" / f"{table.name}.csv", table.csv())
        files.write_text(folder / "tables" / f"{table.name}.tex", table.latex())


def embedded(figure: Figure, svg: str) -> dict[str, object]:
    """A figure as parts.html takes it."""
    encoded = base64.b64encode(figure.data.csv().encode()).decode()
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "svg": svg,
        "data": figure.data,
        "href": f"data:text/csv;base64,{encoded}",
    }
