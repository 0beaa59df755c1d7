"""Scores by item, from whoever measured them: one reader per format, and what they all return.

A reader takes a path and returns the `Scores` of every model in it. A new format is a file here and
a line in READERS, tried in their order.
"""

from collections.abc import Callable
from pathlib import Path

from lfl_jax.errors import UserError
from lfl_jax.studies.records import csv_files, lm_eval_logs, run_directories
from lfl_jax.studies.records.scores import Scores

Recognise = Callable[[Path], bool]
Read = Callable[[Path, str], list[Scores]]

READERS: dict[str, tuple[Recognise, Read]] = {
    "a run directory": (run_directories.recognises, run_directories.read),
    "an lm-evaluation-harness folder": (lm_eval_logs.recognises, lm_eval_logs.read),
    "a CSV file": (csv_files.recognises, csv_files.read),
}


def read(place: str) -> list[Scores]:
    """The models that a path, or PATH:PART, names; UserError when no reader knows it.

    PART: "before" or "after" of a run directory, a run of a CSV file.
    """
    path, part = Path(place), ""
    if not path.exists() and ":" in place:
        head, _, part = place.rpartition(":")
        path = Path(head)
    if not path.exists():
        raise UserError(f"{place}: no such file or folder")
    for recognises, reader in READERS.values():
        if recognises(path):
            return reader(path, part)
    raise UserError(f"{place} is none of: {', '.join(READERS)}")
