"""Bits stored against trainable parameters, of the runs of a study that evaluates lab_keys.

    python -m lfl_jax.studies.capacity STUDY

STUDY is the study's directory, such as that of configs/studies/capacity.py. A row per run: its
trainable parameters, the keys that it trained on, the bits of all their values that it knows, and
these for each parameter. The table is written to STUDY/report/tables/capacity.csv, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lfl_jax.core import files
from lfl_jax.errors import UserError, entry
from lfl_jax.io import workdir
from lfl_jax.report import results_json
from lfl_jax.report.study.tables import Table
from lfl_jax.studies.records import run_directories

TASK, METRIC = "lab_keys", "bits"
COLUMNS = ("run", "parameters", "keys", "bits", "bits of the base", "bits a parameter")


@dataclass(frozen=True)
class Stored:
    """What a run stored: bits of all keys it trained on, and what its base seems to know of them.

    parameters: trainable scalars in use, without the padding of ranks.
    """

    run: str
    parameters: int
    keys: int
    bits: float
    base_bits: float

    @property
    def per_parameter(self) -> float:
        """Bits for each trainable parameter."""
        return self.bits / self.parameters

    def row(self) -> tuple[str, ...]:
        """Its cells, under COLUMNS."""
        numbers = (self.parameters, self.keys, round(self.bits), round(self.base_bits))
        return (self.run, *map(str, numbers), f"{self.per_parameter:.3g}")


def stored(folder: Path) -> Stored:
    """Of a finished run directory; UserError where it was not evaluated on lab_keys."""
    base, tuned = run_directories.read(folder)
    if TASK not in tuned.tasks:
        raise UserError(f"{folder} has no evaluation {TASK}: add it to eval.tasks")
    facts, keys = results_json.saved_facts(folder), workdir.read_config(folder)["data"]["size"]
    # The evaluation asks 2,000 keys at most, and is the mean over those.
    bits, base_bits = (keys * scores.tasks[TASK][METRIC].estimate.mean for scores in (tuned, base))
    return Stored(folder.name, facts["trainable"], keys, bits, base_bits)


def of_study(folder: Path) -> list[Stored]:
    """Every finished run of a study's directory, by trainable parameters; UserError without any."""
    return sorted(map(stored, run_directories.finished(folder)), key=lambda one: one.parameters)


def main(argv: Sequence[str]) -> None:
    """The command above."""
    if len(argv) != 2:
        raise UserError("expected the directory of a study: python -m lfl_jax.studies.capacity DIR")
    folder = Path(argv[1])
    # Read again from the records each time: a study may have gone on since.
    rows = [one.row() for one in of_study(folder)]
    table = Table("capacity", "Bits stored by every run.", COLUMNS, tuple(rows))
    files.write_text(folder / "report/tables/capacity.csv", table.csv())
    Console().print(table.printed())


if __name__ == "__main__":
    entry(main)
