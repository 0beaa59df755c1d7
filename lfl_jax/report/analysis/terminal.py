"""An analysis on a terminal: what was compared, one table, and what to know about it.

lora64-0.001-80-s0, step 80: 28 weights that changed, against lab-1m

module    shape  layers  ||dW|| / ||W||        k90  effective rank  stable rank  intruders
q       128x128       4           0.125  7.25 (34)     25.1 (54.3)  1.92 (14.9)      1 (2)
...
In brackets: the same of a random change (of ||dW|| / ||W||: of rounding alone).
"""

import json
import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lfl_jax.analysis.token_forgetting import TokenForgetting
from lfl_jax.report.analysis import page, parquet, tables
from lfl_jax.report.analysis.measured import Analysis, Value, Weight
from lfl_jax.report.analysis.measures import columns
from lfl_jax.report.study.tables import Table
from lfl_jax.report.table import STYLE

# Columns from which a null stands beside its number, and not below it.
WIDE = 116
# What a table of tokens goes without there.
NARROW_TOKENS = ("share of tokens", "texts")
KEY = "In brackets: the same of a random change (of ||dW|| / ||W||: of rounding alone)."


def show(analysis: Analysis, console: Console | None = None) -> None:
    """Print it all."""
    console = console or Console()
    # Names are the user's: brackets in them are no markup.
    console.print(f"{analysis.title}, {page.subtitle(analysis)}", soft_wrap=True, markup=False)
    for flag in analysis.flags:
        console.print(flag, markup=False, style="yellow")
    console.print()
    by_module = tables.by_module_beside_nulls(analysis)
    console.print(_printed(by_module, console, by_module.columns[1 : tables.HEAD]), "")
    if analysis.is_several:
        growth = tables.by_checkpoint_beside_nulls(analysis)
        console.print(_printed(growth, console, growth.columns[1 : tables.HEAD]), "")
    console.print(KEY, highlight=False, markup=False)
    if analysis.tokens is not None:
        console.print("\nTokens of the text, change of the loss in nats per token", markup=False)
        console.print(_printed(tables.token_types(analysis), console, NARROW_TOKENS), "")
    for note in analysis.notes:
        console.print(note, highlight=False, markup=False)


def _printed(table: Table, console: Console, left_out: Sequence[str]) -> RichTable:
    """Numbers to the right; on a narrow terminal nulls below them, without some columns."""
    printed, is_narrow = RichTable(**STYLE), console.width < WIDE
    columns = [i for i, x in enumerate(table.columns) if not (is_narrow and x in left_out)]
    for i in columns:
        # Folded: half of a number or of a label would be another one.
        side = "left" if i == 0 else "right"
        printed.add_column(Text(table.columns[i]), justify=side, overflow="fold")
    for row in table.texts():
        cells = (row[i].replace(" (", "\n(") if is_narrow else row[i] for i in columns)
        printed.add_row(*map(Text, cells))
    return printed


def as_json(analysis: Analysis) -> str:
    """For programs: a record per checkpoint and weight, with every measure; no spectra."""
    unchanged = {label: list(names) for label, names in analysis.unchanged.items()}
    about = {
        "title": analysis.title,
        "base": analysis.base,
        "flags": analysis.flags,
        "notes": analysis.notes,
        "unchanged": unchanged,
        "other_parameters": dict(analysis.others),
        "tokens": _tokens(analysis.tokens),
        "weights": list(map(_record, analysis.weights)),
    }
    return json.dumps(about, indent=1, allow_nan=False)


def _tokens(found: TokenForgetting | None) -> dict[str, object] | None:
    if found is None:
        return None
    types = [group.row() for group in found.types]
    return {"total": found.total.row(), "types": types}


def _record(weight: Weight) -> dict[str, Value | str]:
    head = dict(zip(parquet.HEAD, parquet.head(weight), strict=True))
    return head | {name: _finite(weight.values.get(name)) for name in columns()}


def _finite(value: Value) -> Value:
    # JSON has no infinity, which an amplification of nothing is.
    return None if value is None or not math.isfinite(value) else value
