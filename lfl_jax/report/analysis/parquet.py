"""Every number of an analysis as one Parquet file, a row per checkpoint and weight.

Beside the measures stand the whole spectra: singular_values of dW, those of a random change, of
the signs of dW, of rounding, of W and of W + dW; and the cosines of the directions of W + dW to
those of W, from which intruders are counted for any epsilon. What was not computed is null.
"""

from pathlib import Path

import numpy as np

from lfl_jax.core import files
from lfl_jax.report.analysis.measured import Analysis, Weight
from lfl_jax.report.analysis.measures import columns
from lfl_jax.report.study.parquet import COMPRESSION

FILE = "weights.parquet"
HEAD = ("checkpoint", "amount", "weight", "module", "layer", "inputs", "outputs", "factors_rank")
# column -> the weight's field
SPECTRA = {
    "singular_values": "s",
    "random_singular_values": "random_s",
    "signs_singular_values": "one_step_s",
    "rounding_singular_values": "rounding_s",
    "base_singular_values": "base_s",
    "tuned_singular_values": "tuned_s",
    "cosines": "cosines",
    "random_cosines": "random_cosines",
}


def write(analysis: Analysis, file: Path) -> None:
    """The file, replaced at once; equal numbers make equal bytes."""
    import pyarrow as pa
    from pyarrow import parquet

    # By column, as Parquet holds them.
    heads = dict(zip(HEAD, zip(*map(head, analysis.weights), strict=True), strict=True))
    arrays = {name: pa.array(values) for name, values in heads.items()}
    for name in columns():
        # A column of nothing but None still has its type: files of all analyses can be joined.
        values = [weight.values.get(name) for weight in analysis.weights]
        arrays[name] = pa.array(values, pa.float64())
    for name, field in SPECTRA.items():
        lists = [_list(getattr(weight, field)) for weight in analysis.weights]
        arrays[name] = pa.array(lists, pa.list_(pa.float64()))
    with files.replacing(file) as partial:
        parquet.write_table(pa.table(arrays), partial, **COMPRESSION)


def head(weight: Weight) -> tuple[str | int | float | None, ...]:
    """What a row is of, in the order of HEAD."""
    where = (weight.checkpoint, weight.amount, weight.name, weight.module, weight.layer)
    return (*where, *weight.shape, weight.rank)


def _list(values: np.ndarray | None) -> list[float] | None:
    return None if values is None else values.tolist()
