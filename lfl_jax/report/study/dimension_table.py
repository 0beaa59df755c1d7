"""The table of a study of random subspaces: d90, and what each number of directions learned."""

from lfl_jax.errors import UserError
from lfl_jax.report.study.tables import Table
from lfl_jax.statistics.effects import Effect
from lfl_jax.studies.claims import best, intrinsic_dimension
from lfl_jax.studies.findings import Findings
from lfl_jax.studies.records.run_measures import TRAINABLE

Row = tuple[str | float | int | None, ...]


def table(findings: Findings) -> Table:
    """A row per arm, other kinds as well, by how many numbers train; empty without subspaces."""
    dimension = intrinsic_dimension.measure(findings)
    columns = ("method", "numbers that train", "share of the weights", "learning rate")
    columns += ("learned, share of full", "95 % low", "95 % high", "forgetting")
    if dimension is None:
        return Table("intrinsic_dimension", "", columns, ())
    named = [name for name, grid in findings.grids.items() if TRAINABLE in grid.measures]
    rows = [_row(findings, name, dimension) for name in named]
    caption = (
        f"{dimension}. d90: as many random directions learn {intrinsic_dimension.SHARE:.0%} of what"
        f" {dimension.full} gained over the base. Every method at its best learning rate."
    )
    return Table(
        "intrinsic_dimension", caption, columns, tuple(sorted(rows, key=lambda row: row[1]))
    )


def _row(findings: Findings, method: str, dimension: intrinsic_dimension.Dimension) -> Row:
    grid = findings.grids[method]
    # the same choice of a learning rate as in the table of all measures
    numbers = intrinsic_dimension.numbers_of(grid)
    index = grid.most_learned
    forgotten = float(grid.arm.y.means()[index])
    share, limits = _share(findings, method, dimension.full)
    head = (method, numbers, numbers / dimension.weights, grid.cells[index].lr)
    return (*head, share, *limits, forgotten)


def _share(findings: Findings, method: str, full: str) -> tuple[float | None, tuple]:
    """A method's share and its interval; None where full finetuning gained nothing."""
    if method == full:
        return 1.0, (None, None)
    try:
        # d90's own comparison is of one length, too
        length = best.shared_length([findings.grids[name] for name in (full, method)])
        share: Effect = intrinsic_dimension.share_of_gain(findings, method, full, length)
    except UserError:
        return None, (None, None)
    return share.mean, share.interval()
