"""What the runs of a study share, and what their changes amplify, as tables (`studies.directions`).

Every table has rows of all weights together, of each module, and of each layer of each module.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from lfl_jax.report.study.tables import Table
from lfl_jax.statistics.effects import in_words, over_seeds
from lfl_jax.studies import directions
from lfl_jax.studies.directions import SPACES, Amplified, Directions, Overlap

# So many first directions have a row.
TABLED = (1, 2, 4, 8, 16)
# Those that a terminal has room for.
PRINTED = (1, 4)
ALL = "all"

# ((module, layer) as the table says them, module or "", layer or None) of a group of weights
Group = tuple[tuple[str, str | int], str, int | None]


def _groups(compared: Directions) -> Iterator[Group]:
    """All weights; every module; every layer of each."""
    layers = sorted({one.layer for one in compared.amplified})
    yield (ALL, ALL), "", None
    for module in compared.modules:
        yield (module, ALL), module, None
        for layer in layers:
            yield (module, layer), module, layer


def similarity(compared: Directions) -> Table:
    """phi(k, k) of every pair of arms, by space, module and layer."""
    rows: list[tuple[str | int | float, ...]] = []
    for first, second, seeds in directions.comparisons(compared):
        for space in SPACES:
            for names, module, layer in _groups(compared):
                overlaps = compared.of(first, second, space, module, layer)
                head = (first, second, seeds, space, *names)
                rows += [(*head, *row) for row in _similarity_rows(overlaps, seeds)]
    return Table(
        "subspace_similarity",
        "phi(k, k) = ||U^T V||_F^2 / k of the first k directions of two runs' changes: of LoRA's"
        " factor A, and of dW's inputs and outputs. Random: the mean of random directions. Pairs"
        " of the same seed, or of other seeds.",
        (
            *("first", "second", "seeds", "space", "module", "layer", "k"),
            *("similarity", "95 % low", "95 % high", "random"),
        ),
        tuple(rows),
    )


def _similarity_rows(overlaps: Sequence[Overlap], seeds: str) -> Iterator[tuple[int | float, ...]]:
    # A pair without a factor A, or a module that one of the two does not change.
    most = min(overlaps[0].values.shape[2:]) if overlaps else 0
    for k in TABLED:
        if k <= most:
            phi = directions.similarity(overlaps, k, k, seeds)
            yield (k, phi.effect.mean, *phi.effect.interval(), phi.random)


def similarity_in_short(compared: Directions) -> Table:
    """The same of all weights together, as wide as a terminal."""
    rows = []
    for first, second, seeds in directions.comparisons(compared):
        for space in SPACES:
            overlaps = compared.of(first, second, space)
            if overlaps:
                names = first if first == second else f"{first}, {second}"
                rows.append((names, seeds, space, *_in_words(overlaps, seeds)))
    head = (f"phi({k}, {k})" for k in PRINTED)
    return Table("similarity", "", ("arms", "seeds", "space", *head, "random"), tuple(rows))


def _in_words(overlaps: Sequence[Overlap], seeds: str) -> list[str]:
    """Of every k of PRINTED, as far as there are so many directions; and of random ones."""
    cells, random = [], []
    for k in PRINTED:
        k = min(k, *overlaps[0].values.shape[2:])
        phi = directions.similarity(overlaps, k, k, seeds)
        cells.append(in_words(phi.effect.mean, phi.effect.interval(), ".2f"))
        random.append(f"{phi.random:.2f}")
    return [*cells, ", ".join(random)]


def amplification(compared: Directions) -> Table:
    """||dW|| beside what W has in dW's directions, by arm, module and layer."""
    rows = []
    for arm in compared.arms:
        for names, module, layer in _groups(compared):
            weights = compared.amplified_by(arm, module, layer)
            if weights:
                rows.append((arm, weights[0].directions, *names, *_amplification_row(weights)))
    return Table(
        "amplification",
        "||U^T W V||_F with U and V the first directions of dW, of W itself, and random ones; the"
        " factor is ||dW||_F over the first. Geometric means over weights and seeds, the interval"
        " over seeds.",
        (
            *("arm", "directions", "module", "layer", "||dW||", "W in dW's", "W in its top"),
            *("W in random", "factor", "95 % low", "95 % high", "factor, random"),
        ),
        tuple(rows),
    )


def _amplification_row(weights: Sequence[Amplified]) -> tuple[float, ...]:
    norms = []
    for field in ("change", "in_own", "in_top", "in_random"):
        logs = [one.log10_of(field) for one in weights]
        norms.append(float(10 ** np.mean(logs)))
    factor = over_seeds(directions.log_ratio(weights, "change", "in_own"))
    low, high = factor.interval()
    random = float(10 ** np.mean(directions.log_ratio(weights, "change", "in_random")))
    return (*norms, 10**factor.mean, 10**low, 10**high, random)


def amplification_in_short(compared: Directions) -> Table:
    """The same of all weights together, as wide as a terminal."""
    rows = []
    for arm in compared.arms:
        weights = compared.amplified_by(arm)
        norm, own, top, of_random, *factor, random = _amplification_row(weights)
        words = in_words(factor[0], (factor[1], factor[2]), ".3g")
        rows.append((arm, weights[0].directions, norm, own, top, of_random, words, random))
    columns = ("arm", "R", "||dW||", "W in dW's", "its top", "random", "factor", "random")
    return Table("amplified", "", columns, tuple(rows))
