"""Rows of a CSV file with a head, whose columns are checked first."""

import csv
from collections.abc import Sequence
from pathlib import Path

from lfl_jax.core.files import HUGE, expecting
from lfl_jax.errors import UserError

Row = dict[str, str]


def read(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> list[Row]:
    """Every row, by column. UserError that names the required columns that are missing."""
    with (
        expecting(path, "a table in UTF-8 text"),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        reader = csv.DictReader(file)
        missing = [name for name in required if name not in (reader.fieldnames or ())]
        if missing:
            further = f" and, where there are any, {', '.join(optional)}" if optional else ""
            raise UserError(
                f"{path}: no column {', '.join(missing)}; expected {', '.join(required)}{further}"
            )
        return list(reader)


def finite(text: str | None) -> float | None:
    """A cell as a number; None for anything that is no finite one."""
    # A row that ends early has None in its last cells.
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if abs(value) < HUGE else None
