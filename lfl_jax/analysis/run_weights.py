"""weights.jsonl of a run directory: what training did to its weights, for whoever asks later.

The first line says of which step it is. Every other line is a linear weight of one layer: its
shape, the measures of `analysis.spectra` of dW, what a Gaussian change of the same shape, rank and
norm would have ("_random"), and its intruder dimensions, beside those of a change with the same
singular values in random directions. Plain JSON lines, for `pandas.read_json(path, lines=True)`.
`measure_weights` writes the file.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from lfl_jax.core import files

FILE = "weights.jsonl"
# Raised when a record's meaning changes: older files are then measured again.
VERSION = 3

Record: TypeAlias = dict[str, str | int | float | bool | None]
RANKS = ("k90", "effective_rank", "stable_rank")
# {group: (record, the last layer) -> whether the weight is of the group}
GROUPS: dict[str, Callable[[Record, int], bool]] = {
    "attention": lambda record, last: "/attn/" in record["weight"],
    "mlp": lambda record, last: "/mlp/" in record["weight"],
    "ends": lambda record, last: record["layer"] in (0, last),
    "middle": lambda record, last: 0 < record["layer"] < last,
}


def is_complete(folder: Path, step: int | None) -> bool:
    """Whether the file has every weight at this step."""
    lines = files.read_jsonl(folder / FILE)
    if not lines:
        return False
    header = lines[0]
    is_current = (header.get("version"), header.get("step")) == (VERSION, step)
    return is_current and len(lines) - 1 == header.get("weights")


def read(folder: Path) -> list[Record]:
    """The records of the file; none without one, and of one that is not complete."""
    lines = files.read_jsonl(folder / FILE)
    # A mean over some of the weights would be taken for that over all.
    return lines[1:] if lines and is_complete(folder, lines[0].get("step")) else []


def summary(records: Sequence[Record]) -> dict[str, float]:
    """Of all weights together; {} without any.

    Norms are of the whole change, ranks means over weights, intruders sums. k90_share_GROUP: of a
    group of weights, k90 over that of a random change, the mean.
    """
    if not records:
        return {}
    norm, base = (_norm_of(name, records) for name in ("frobenius", "base_frobenius"))
    whole = {"frobenius": norm, "spectral": max(record["spectral"] for record in records)}
    whole |= {"relative_norm": norm / base} if base else {}
    for name in (*RANKS, *(f"{name}_random" for name in RANKS)):
        whole[name] = float(np.mean([record[name] for record in records]))
    for name in ("intruders", "intruders_random"):
        whole[name] = float(sum(record[name] for record in records))
    return whole | _shares(records)


def _shares(records: Sequence[Record]) -> dict[str, float]:
    """By group, of those that there are: a model of two layers has no middle."""
    last, shares = max(record["layer"] for record in records), {}
    for group, is_in in GROUPS.items():
        members = [record for record in records if is_in(record, last)]
        # A change of nothing has no rank, and neither has its null.
        of_members = [record["k90"] / (record["k90_random"] or 1.0) for record in members]
        shares |= {f"k90_share_{group}": float(np.mean(of_members))} if members else {}
    return shares


def _norm_of(name: str, records: Sequence[Record]) -> float:
    return math.hypot(*(record[name] for record in records))
