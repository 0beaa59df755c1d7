"""The runs of a study, whoever trained them: which method, learning rate, length and seed each is.

A list of runs is a CSV file with columns method, lr, seed, step and folder; folder is anything that
`records.read` takes, relative to the file. A row of a run that failed leaves folder empty and says
why in `reason`. `scale` is a factor on the finished change, 1 where there is none.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lfl_jax.errors import UserError
from lfl_jax.io import workdir
from lfl_jax.studies import points, records
from lfl_jax.studies.points import AS_TRAINED, Point
from lfl_jax.studies.records import csv_rows, run_directories, run_measures
from lfl_jax.studies.records.csv_rows import Row
from lfl_jax.studies.records.scores import Scores

COLUMNS = ("method", "lr", "seed", "step", "folder")


class Cell(NamedTuple):
    """A place in a method's grid.

    step: the length of the schedule. point: what was done to the finished change.
    """

    lr: float
    step: int
    point: Point = AS_TRAINED

    @property
    def mark(self) -> str:
        """The rate, and what was done to the change: at a point of a figure."""
        if self.point.is_prompt:
            return self.point.mark
        return f"{self.lr:g}" if self.point.is_trained else f"{self.lr:g} {self.point.mark}"

    @property
    def columns(self) -> tuple[float, int, float | str]:
        """In a table: learning rate, steps, change."""
        return self.lr, self.step, self.point.column

    def __str__(self) -> str:
        altered = "" if self.point.is_trained else f", {self.point}"
        return f"lr {self.lr:g}, step {self.step}{altered}"


@dataclass(frozen=True)
class Run:
    """A trained model and its place in the grid; scores is None for a run that failed.

    step: the length of its schedule, in optimizer steps. point: what was done to the finished
    change, which a study evaluates without training again. along: its scores during training, by
    the number of steps, where it was evaluated then. measures: of its weights and of its start, by
    the names of `records.run_measures`, as far as they were measured. base: the base's scores on
    this run's own items, where they are not those that the study's base was scored on: a run of
    another target. task: the last one that it was trained on, in a study of several; "" = there is
    one.
    """

    method: str
    lr: float
    seed: int
    step: int
    scores: Scores | None
    reason: str = ""
    point: Point = AS_TRAINED
    along: Mapping[int, Scores] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    base: Scores | None = None
    task: str = ""

    @property
    def name(self) -> str:
        """Of one method and cell and seed; as trained, it is how a study names the run."""
        altered = "" if self.point.is_trained else f"-{self.point.suffix}"
        task = f"-{self.task}" if self.task else ""
        return run_name(self.method, self.lr, self.step, self.seed) + altered + task

    @property
    def place(self) -> tuple[str, Cell, int]:
        """Its method, cell and seed, of which there is one run."""
        return self.method, self.cell, self.seed

    @property
    def cell(self) -> Cell:
        """Its place in its method's grid."""
        return Cell(self.lr, self.step, self.point)


def run_name(method: str, lr: float, steps: int, seed: int) -> str:
    """What a study calls a run that it trains: "lora-0.001-48-s2", also its directory."""
    return f"{method}-{lr:g}-{steps}-s{seed}"


def read(path: Path) -> list[Run]:
    """The runs of a CSV file. UserError for a missing column, a bad number, or one run twice."""
    # Line 1 is the head.
    rows = list(enumerate(csv_rows.read(path, COLUMNS), 2))
    _require_different_folders(path, rows)
    runs = [_run(path, number, row) for number, row in rows]
    require_distinct(runs, str(path))
    return runs


def require_distinct(runs: Sequence[Run], source: str) -> None:
    """UserError for two runs of one method, cell and seed: which would count?"""
    places = Counter(run.place for run in runs)
    for (method, cell, seed), count in places.items():
        if count > 1:
            raise UserError(
                f"{source}: {count} runs of {method}, {cell}, seed {seed}; expected one"
            )


def _require_different_folders(path: Path, rows: Sequence[tuple[int, Row]]) -> None:
    """UserError for one model under two names: it would count as two seeds that agree exactly."""
    lines: dict[str, int] = {}
    for number, row in rows:
        first = lines.setdefault(row["folder"], number) if row["folder"] else number
        if first != number:
            raise UserError(
                f"{path}: lines {first} and {number} name one folder, {row['folder']}; every run"
                " needs its own"
            )


def _run(path: Path, number: int, row: Row) -> Run:
    where = f"{path}, line {number}"
    lr = _number(where, "lr", row["lr"])
    seed, step = (int(_number(where, name, row[name])) for name in ("seed", "step"))
    point = points.scale(_number(where, "scale", row.get("scale") or "1"))
    folder, reason = row["folder"], row.get("reason") or ""
    scores = _tuned(where, path.parent / folder) if folder else None
    if not folder:
        reason = reason or "no folder was given"
    elif point.is_trained:
        _require_as_recorded(where, path.parent / folder, lr, step)
    along = run_directories.along(path.parent / folder) if folder else {}
    measures = run_measures.read(path.parent / folder) if folder else {}
    more = {"point": point, "along": along, "measures": measures}
    return Run(row["method"], lr, seed, step, scores, reason, **more)


def _require_as_recorded(where: str, folder: Path, lr: float, step: int) -> None:
    """UserError where a run directory's own config says otherwise."""
    if not (folder / workdir.CONFIG_FILE).exists():
        return
    recorded = workdir.read_config(folder)
    rate, steps = recorded["optim"]["lr"], recorded["train"]["steps"]
    # 0 steps stand for a number of epochs, which the config does not count.
    if not math.isclose(rate, lr) or steps not in (0, step):
        raise UserError(
            f"{where}: lr {lr:g}, step {step}, but the run in {folder} had lr {rate:g} and"
            f" {steps} steps"
        )


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
