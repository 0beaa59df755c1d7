"""The runs of a study, whoever trained them: which method, learning rate, length and seed each is.

A list of runs is a CSV file with columns method, lr, seed, step and folder; folder is anything that
`records.read` takes, relative to the file. A row of a run that failed leaves folder empty and says
why in `reason`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lfl_jax.errors import UserError
from lfl_jax.studies import records
from lfl_jax.studies.records import csv_rows
from lfl_jax.studies.records.csv_rows import Row
from lfl_jax.studies.records.scores import Scores

COLUMNS = ("method", "lr", "seed", "step", "folder")


@dataclass(frozen=True)
class Run:
    """A trained model and its place in the grid; scores is None for a run that failed.

    step: the length of its schedule, in optimizer steps.
    """

    method: str
    lr: float
    seed: int
    step: int
    scores: Scores | None
    reason: str = ""

    @property
    def cell(self) -> tuple[float, int]:
        """Its place in its method's grid."""
        return self.lr, self.step


def read(path: Path) -> list[Run]:
    """The runs of a CSV file. UserError for a missing column, a bad number, or one run twice."""
    # Line 1 is the head.
    rows = enumerate(csv_rows.read(path, COLUMNS), 2)
    runs = [_run(path, number, row) for number, row in rows]
    require_distinct(runs, str(path))
    return runs


def require_distinct(runs: Sequence[Run], source: str) -> None:
    """UserError for two runs of one method, learning rate, length and seed: which would count?"""
    places = Counter((run.method, run.lr, run.step, run.seed) for run in runs)
    for (method, lr, step, seed), count in places.items():
        if count > 1:
            raise UserError(
                f"{source}: {count} runs of {method}, lr {lr:g}, step {step}, seed {seed};"
                " expected one"
            )


def _run(path: Path, number: int, row: Row) -> Run:
    where = f"{path}, line {number}"
    lr = _number(where, "lr", row["lr"])
    seed, step = (int(_number(where, name, row[name])) for name in ("seed", "step"))
    folder, reason = row["folder"], row.get("reason") or ""
    if not folder:
        return Run(row["method"], lr, seed, step, None, reason or "no folder was given")
    return Run(row["method"], lr, seed, step, _tuned(where, path.parent / folder), reason)


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
