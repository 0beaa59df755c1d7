"""The runs of a study, whoever trained them: which method, learning rate, length and seed each is.

A list of runs is a CSV file with columns method, lr, seed, step and folder; folder is anything that
`records.read` takes, relative to the file. A row of a run that failed leaves folder empty and says
why in `reason`. `scale` is a factor on the finished change, 1 where there is none.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lfl_jax.errors import UserError
from lfl_jax.studies import records
from lfl_jax.studies.records import csv_rows, run_directories
from lfl_jax.studies.records.csv_rows import Row
from lfl_jax.studies.records.scores import Scores

COLUMNS = ("method", "lr", "seed", "step", "folder")


class Cell(NamedTuple):
    """A place in a method's grid.

    step: the length of the schedule. scale: a factor on the finished change, 1 being as trained.
    """

    lr: float
    step: int
    scale: float = 1.0

    @property
    def mark(self) -> str:
        """The rate, and the scale where there is one: at a point of a figure."""
        return f"{self.lr:g}" if self.scale == 1 else f"{self.lr:g} x{self.scale:g}"

    def __str__(self) -> str:
        scaled = "" if self.scale == 1 else f", scale {self.scale:g}"
        return f"lr {self.lr:g}, step {self.step}{scaled}"


@dataclass(frozen=True)
class Run:
    """A trained model and its place in the grid; scores is None for a run that failed.

    step: the length of its schedule, in optimizer steps. scale: of the finished change, which a
    study evaluates without training again. along: its scores during training, by the number of
    steps, where it was evaluated then.
    """

    method: str
    lr: float
    seed: int
    step: int
    scores: Scores | None
    reason: str = ""
    scale: float = 1.0
    along: Mapping[int, Scores] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of one method and cell and seed; without a scale as a study names the run it trains."""
        scaled = "" if self.scale == 1 else f"-x{self.scale:g}"
        return f"{self.method}-{self.lr:g}-{self.step}-s{self.seed}{scaled}"

    @property
    def cell(self) -> Cell:
        """Its place in its method's grid."""
        return Cell(self.lr, self.step, self.scale)


def read(path: Path) -> list[Run]:
    """The runs of a CSV file. UserError for a missing column, a bad number, or one run twice."""
    # Line 1 is the head.
    rows = enumerate(csv_rows.read(path, COLUMNS), 2)
    runs = [_run(path, number, row) for number, row in rows]
    require_distinct(runs, str(path))
    return runs


def require_distinct(runs: Sequence[Run], source: str) -> None:
    """UserError for two runs of one method, cell and seed: which would count?"""
    places = Counter((run.method, run.cell, run.seed) for run in runs)
    for (method, cell, seed), count in places.items():
        if count > 1:
            raise UserError(
                f"{source}: {count} runs of {method}, {cell}, seed {seed}; expected one"
            )


def _run(path: Path, number: int, row: Row) -> Run:
    where = f"{path}, line {number}"
    lr = _number(where, "lr", row["lr"])
    seed, step = (int(_number(where, name, row[name])) for name in ("seed", "step"))
    scale = _number(where, "scale", row.get("scale") or "1")
    folder, reason = row["folder"], row.get("reason") or ""
    scores = _tuned(where, path.parent / folder) if folder else None
    if not folder:
        reason = reason or "no folder was given"
    along = run_directories.along(path.parent / folder) if folder else {}
    return Run(row["method"], lr, seed, step, scores, reason, scale=scale, along=along)


def _tuned(where: str, folder: Path) -> Scores:
    """The one trained model of a folder: of a run directory, the model after training."""
    models = records.read(str(folder))
    # The two of a run directory are its base and itself.
    if len(models) > 2:
        raise UserError(
            f"{where}: {folder} holds {len(models)} models; name one, as in FILE.csv:RUN"
        )
    return models[-1]


def _number(where: str, name: str, text: str) -> float:
    value = csv_rows.finite(text)
    if value is None:
        raise UserError(f"{where}: {name} {text!r} is no number")
    return value
