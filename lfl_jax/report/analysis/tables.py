"""The numbers of an analysis as tables: of the page, of CSV and LaTeX files."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from lfl_jax.analysis import intruders as intruder_counts
from lfl_jax.analysis import subspaces
from lfl_jax.analysis.subspaces import Correlation
from lfl_jax.report.analysis.measured import Analysis, Pair, Value, Weight, summary
from lfl_jax.report.analysis.measures import BY_NAME, IN_TABLE, columns
from lfl_jax.report.study.tables import Table

Cell = str | float | int | None
# Of the first directions, as the published count has them up to.
TOP_KS = (1, 2, 5, 10)
# Indices of a spectrum that a file has: all of the first ones, then ever fewer.
DENSE, STEPS = 64, 200
ALL = "all"
# Columns of a table before its measures.
HEAD = 3


def main(analysis: Analysis) -> Table:
    """Of the last checkpoint by module, each measure beside its null: what is printed."""
    last = f" at {analysis.labels[-1]}" if analysis.is_several else ""
    return Table(
        "by_module",
        f"The change of each module's weights{last}, the mean over layers; of intruders the sum."
        " Null (in brackets): what a random change would have; of ||dW|| / ||W||, rounding alone.",
        ("module", "shape", "layers", *_columns()),
        tuple(_module_row(analysis.last, module) for module in (*analysis.modules, ALL)),
    )


def _columns() -> list[str]:
    labels = []
    for measure in IN_TABLE:
        labels += [measure.label, measure.null_label]
    return labels


def _module_row(weights: Sequence[Weight], module: str) -> tuple[Cell, ...]:
    chosen = [weight for weight in weights if module in (weight.module, ALL)]
    return (module, _shapes(chosen), len(chosen), *module_values(chosen))


def _shapes(weights: Sequence[Weight]) -> str:
    shapes = {weight.shape for weight in weights}
    return "x".join(map(str, shapes.pop())) if len(shapes) == 1 else ""


def module_values(weights: Sequence[Weight]) -> list[Value]:
    """A measure and its null, for every one of the printed table."""
    values = []
    for measure in IN_TABLE:
        values += [summary(weights, measure), summary(weights, measure, null=True)]
    return values


def by_checkpoint(analysis: Analysis) -> Table:
    """The growth with training: of all weights together, at each checkpoint."""
    rows = []
    for label in analysis.labels:
        # Its checkpoints differ in their amount of training, its weights do not.
        weights = analysis.of(label)
        amount = weights[0].amount if weights else None
        # A whole number is read with all of its digits.
        amount = None if amount is None else round(amount)
        rows.append((label, amount, len(weights), *module_values(weights)))
    return Table(
        "by_checkpoint",
        "All weights together at each checkpoint, the mean; of intruders the sum.",
        ("checkpoint", analysis.unit or "amount", "weights", *_columns()),
        tuple(rows) if analysis.is_several else (),
    )


def by_module_beside_nulls(analysis: Analysis) -> Table:
    """`main` for readers: a null in brackets after its number, and only what there is."""
    table = main(analysis)
    return dataclasses.replace(table, **_beside_nulls(table, analysis))


def by_checkpoint_beside_nulls(analysis: Analysis) -> Table:
    """`by_checkpoint`, likewise."""
    table = by_checkpoint(analysis)
    return dataclasses.replace(table, **_beside_nulls(table, analysis))


def _beside_nulls(table: Table, analysis: Analysis) -> dict[str, tuple]:
    """Columns and rows with half of the columns after HEAD."""
    # Without the base there are neither intruders nor anything else that W is needed for.
    measures = [m for m in IN_TABLE if summary(analysis.weights, m) is not None]
    first = [table.columns.index(measure.label) for measure in measures]
    rows = []
    for row in table.rows:
        cells = (_with_null(row[i], row[i + 1]) for i in first)
        rows.append((*row[:HEAD], *cells))
    labels = (measure.label for measure in measures)
    return {"columns": (*table.columns[:HEAD], *labels), "rows": tuple(rows)}


def _with_null(value: Cell, null: Cell) -> str:
    return _short(value) if null is None else f"{_short(value)} ({_short(null)})"


def _short(value: Cell) -> str:
    if not isinstance(value, int | float) or math.isnan(value):
        return "–"
    # Whole numbers of a hundred and more have all of their digits: 2090 and not 2.09e+03.
    return f"{value:.0f}" if abs(value) >= 100 or isinstance(value, int) else f"{value:.3g}"


def all_weights(analysis: Analysis) -> Table:
    """Every measure of every weight at every checkpoint."""
    return Table(
        "weights",
        "Every measure of every weight.",
        ("checkpoint", "weight", "inputs", "outputs", "rank of factors", *columns()),
        tuple(map(_weight_row, analysis.weights)),
    )


def _weight_row(weight: Weight) -> tuple[Cell, ...]:
    head = (weight.checkpoint, weight.name, *weight.shape, weight.rank)
    return (*head, *map(weight.values.get, columns()))


def by_layer(analysis: Analysis, name: str) -> Table:
    """A measure and its null of every weight at every checkpoint."""
    null = BY_NAME[name].null_name
    return Table(
        name,
        BY_NAME[name].about,
        ("checkpoint", "module", "layer", name, null),
        tuple(
            (x.checkpoint, x.module, x.layer, x.values.get(name), x.values.get(null))
            for x in analysis.weights
        ),
    )


def spectra(analysis: Analysis) -> Table:
    """The singular values of the last checkpoint; the Parquet file has all of them."""
    rows = []
    for weight in analysis.last:
        for index in _indices(len(weight.s)):
            null = _at(weight.random_s, index)
            floor = None if weight.rounding_s is None else _at(weight.rounding_s, index)
            rows.append((weight.module, weight.layer, index + 1, _at(weight.s, index), null, floor))
    return Table(
        "spectrum",
        "Singular values of dW, of a random change of the same norm, and of rounding alone.",
        ("module", "layer", "index", "s", "random", "rounding"),
        tuple(rows),
    )


def _indices(count: int) -> list[int]:
    # As a logarithmic axis shows them: a file of every value would be megabytes of the tail.
    later = np.geomspace(DENSE, max(count, DENSE + 1), STEPS).astype(int) - 1
    return [i for i in sorted({*range(min(DENSE, count)), *later.tolist()}) if i < count]


def _at(values: np.ndarray, index: int) -> float | None:
    return float(values[index]) if index < len(values) else None


def singular_values(weights: Sequence[Weight]) -> Table:
    """Of W, W + dW and dW of a few weights."""
    rows = []
    for weight in weights:
        spectra = (weight.base_s, weight.tuned_s, weight.s, weight.random_s)
        for index in _indices(min(weight.shape)):
            rows.append((weight.name, index + 1, *(_at(one, index) for one in spectra)))
    return Table(
        "singular_values",
        "Singular values of W, W + dW, dW and a random dW.",
        ("weight", "index", "W", "W + dW", "dW", "random dW"),
        tuple(rows),
    )


def intruders(analysis: Analysis, epsilons: Sequence[float]) -> Table:
    """Counts over all weights of the last checkpoint, epsilon and k swept."""
    chosen = [weight for weight in analysis.last if weight.cosines is not None]
    rows = []
    for name, of in (("dW", "cosines"), ("random", "random_cosines")):
        # The maxima are stored, so that any epsilon and any k is a count over them.
        all_cosines = [getattr(weight, of) for weight in chosen]
        if any(cosines is None for cosines in all_cosines):
            continue
        counted = [intruder_counts.counts(x, epsilons, TOP_KS) for x in all_cosines]
        for epsilon, row in zip(epsilons, sum(counted), strict=True):
            rows.append((name, epsilon, *map(int, row)))
    return Table(
        "intruders",
        f"Intruders among the first k directions of {len(chosen)} weights.",
        ("change", "epsilon", *(f"k = {k}" for k in TOP_KS)),
        tuple(rows),
    )


def similarities(analysis: Analysis) -> Table:
    """Of every weight with another run, or with W, at equal numbers of directions."""
    rows = []
    for pair in analysis.pairs or _pairs_with_base(analysis):
        sides = zip(("inputs", "outputs"), pair.shape, (pair.inputs, pair.outputs), strict=True)
        for side, size, values in sides:
            for k in range(min(values.shape)):
                null = subspaces.random_similarity(size, k + 1, k + 1)
                rows.append(
                    (pair.module, pair.layer, side, k + 1, float(values[k, k]), null.mean, null.sd)
                )
    return Table(
        "similarity",
        "The share of the first k directions that is common, beside random directions'.",
        ("module", "layer", "space", "k", "similarity", "random", "sd of random"),
        tuple(rows),
    )


def _pairs_with_base(analysis: Analysis) -> list[Pair]:
    pairs = (weight.with_base() for weight in analysis.last)
    return [pair for pair in pairs if pair is not None]


def pairs(analysis: Analysis) -> Table:
    """Two runs by module: the mean over layers at a few numbers of directions."""
    rows = []
    for module in dict.fromkeys(pair.module for pair in analysis.pairs):
        chosen = [pair for pair in analysis.pairs if pair.module == module]
        most = min(min(pair.inputs.shape) for pair in chosen)
        # Of factors of a low rank there are fewer directions than the table asks for.
        for k in (k for k in (*TOP_KS, most) if k <= most):
            rows.append((module, k, *_mean_pair(chosen, k)))
    return Table(
        "compared",
        f"Directions that dW shares with that of {analysis.compared}, the mean over layers.",
        ("module", "k", "inputs", "random", "outputs", "random"),
        tuple(dict.fromkeys(rows)),
    )


def _mean_pair(pairs: Sequence[Pair], k: int) -> tuple[float, ...]:
    values = []
    for index, side in enumerate(("inputs", "outputs")):
        values.append(float(np.mean([getattr(pair, side)[k - 1, k - 1] for pair in pairs])))
        values.append(subspaces.random_similarity(pairs[0].shape[index], k, k).mean)
    return tuple(values)


def correlations(analysis: Analysis) -> Table:
    """DoRA's diagnosis at every checkpoint."""
    rows = []
    for label, one in analysis.correlations.items():
        # A text is the reason why there is none.
        known = isinstance(one, Correlation)
        numbers = (one.value, one.random, one.points) if known else (None,) * 3
        rows.append((label, *numbers, "" if known else one))
    return Table(
        "magnitude_and_direction",
        "The correlation, over weights, of how much the norms of outputs changed and their"
        " directions. Published: full finetuning -.62, DoRA -.31, LoRA +.83 (arXiv 2402.09353).",
        ("checkpoint", "correlation", "of a random change", "weights", "why not"),
        tuple(rows),
    )


def token_types(analysis: Analysis) -> Table:
    """What tokens of the text lost, by their type."""
    if analysis.tokens is None:
        return _of_dicts("tokens", "", [])
    rows = [group.row() for group in (analysis.tokens.total, *analysis.tokens.types)]
    return _of_dicts("tokens", "The change of the loss of tokens by type, nats per token.", rows)


def token_positions(analysis: Analysis) -> Table:
    """The same, by how many tokens stand before."""
    rows = [] if analysis.tokens is None else [group.row() for group in analysis.tokens.positions]
    return _of_dicts("positions", "The change of the loss of tokens by what was read before.", rows)


def token_examples(analysis: Analysis) -> Table:
    """Tokens whose loss rose most."""
    rows = [] if analysis.tokens is None else [x.row() for x in analysis.tokens.examples]
    return _of_dicts("examples", "Of each type the tokens whose loss rose most.", rows)


def _of_dicts(name: str, caption: str, rows: Sequence[dict[str, Cell]]) -> Table:
    columns = tuple(rows[0]) if rows else ()
    return Table(name, caption, columns, tuple(tuple(row.values()) for row in rows))


# On the page, in this order.
SHOWN = (
    by_checkpoint,
    pairs,
    correlations,
    token_types,
    token_positions,
    token_examples,
    all_weights,
)


def all_of(analysis: Analysis) -> list[Table]:
    """Every table; one that there is nothing for has no rows."""
    return [make(analysis) for make in SHOWN]
