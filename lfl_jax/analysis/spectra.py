"""What a spectrum says in one number: ranks, counts and norms, of dW, of W, and of their sum.

Every measure is a function of the singular values, declared once in MEASURES; tables, figures and
the file that training writes go through that. Of a zero change all of them are 0: nothing is
divided by its norm.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from lfl_jax.analysis.decompose import MATRICES, Spectrum
from lfl_jax.analysis.weight_changes import WeightChange

Values = Float[np.ndarray, " N"]
# of the energy, "rank" in arXiv 2405.09673; of MoRA's and of our own count, from which s on
ENERGY, ABOVE, RELATIVE = 0.9, 0.1, 0.05
# singular values that a record keeps of each spectrum, spread evenly on a logarithmic axis
KEPT = 64


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number of a spectrum. label: for tables and axes. depends_on_scale: of dW."""

    label: str
    of: Callable[[Values], float]
    depends_on_scale: bool = False


def energy_rank(s: Values, share: float = ENERGY) -> int:
    """The least k for which the k largest squares make up this share of all squares."""
    energy = np.cumsum(np.square(s))
    if not len(s) or energy[-1] == 0:
        return 0
    # A sum that is the share exactly may round to a little less than that.
    enough = energy >= share * energy[-1] * (1 - 1e-12)
    return int(np.argmax(enough)) + 1


def effective_rank(s: Values) -> float:
    """exp of the entropy of s / sum(s) (Roy and Vetterli 2007), with 0 log 0 = 0."""
    positive = s[s > 0]
    if not len(positive):
        return 0.0
    p = positive / positive.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def stable_rank(s: Values) -> float:
    """||dW||_F^2 / ||dW||_2^2."""
    largest = spectral_norm(s)
    # divided first: squares of small numbers would underflow
    return float(np.sum(np.square(s / largest))) if largest else 0.0


def frobenius_norm(s: Values) -> float:
    """The root of the sum of squares."""
    return float(np.linalg.norm(s))


def spectral_norm(s: Values) -> float:
    """The largest singular value."""
    return float(s[0]) if len(s) else 0.0


def count_above(s: Values, tau: float = ABOVE) -> int:
    """Values above tau, as MoRA counts them (arXiv 2405.12130): not comparable across scales."""
    return int(np.sum(s > tau))


def count_relative(s: Values, share: float = RELATIVE) -> int:
    """Values of at least this share of the largest one."""
    return int(np.sum(s >= share * s[0])) if spectral_norm(s) else 0


# name -> measure, in the order of tables
MEASURES: dict[str, Measure] = {
    "k90": Measure("rank (90 % of energy)", energy_rank),
    "effective_rank": Measure("effective rank", effective_rank),
    "stable_rank": Measure("stable rank", stable_rank),
    "above_0.1": Measure("s > 0.1", count_above, depends_on_scale=True),
    "above_5_percent": Measure("s >= 5 % of the largest", count_relative),
    "frobenius": Measure("Frobenius norm", frobenius_norm, depends_on_scale=True),
    "spectral": Measure("spectral norm", spectral_norm, depends_on_scale=True),
}


def measure(spectrum: Spectrum) -> dict[str, float]:
    """{name: value} of every measure."""
    return {name: float(one.of(spectrum.s)) for name, one in MEASURES.items()}


def standard_errors(spectrum: Spectrum) -> dict[str, float]:
    """{name: standard error} from the samples of what a projection left out; 0 if there are none.

    It is of the estimate's spread, and does not include the bias of `Spectrum.error`.
    """
    count = len(spectrum.samples)
    if count < 2:
        return dict.fromkeys(MEASURES, 0.0)
    head, errors = spectrum.s[: spectrum.computed], {}
    for name, one in MEASURES.items():
        values = [one.of(np.concatenate([head, sample])) for sample in spectrum.samples]
        errors[name] = float(np.std(values, ddof=1) / np.sqrt(count))
    return errors


def sampled(s: Values, count: int = KEPT) -> tuple[list[int], list[float]]:
    """(indices from 1, values) of a spectrum, at most `count`, with the first and the last."""
    if not len(s):
        return [], []
    indices = np.unique(np.rint(np.geomspace(1, len(s), count)).astype(int))
    # Four digits are more than a line in a figure shows.
    return indices.tolist(), [float(f"{x:.4g}") for x in s[indices - 1]]


def base_norm(change: WeightChange) -> float:
    """||W||_F."""
    return float(np.linalg.norm(change.base().astype(np.float64)))


def relative_norm(norm: float, base: Float[np.ndarray, "I O"]) -> float | None:
    """norm / ||W||_F; None for a base of zeros, of which there is no share."""
    whole = float(np.linalg.norm(base.astype(np.float64)))
    return norm / whole if whole else None


def records(
    changes: Iterable[WeightChange],
    matrices: Sequence[str] = ("dW",),
    norm_of: Callable[[WeightChange], float] | None = base_norm,
) -> Iterator[dict[str, Any]]:
    """One record for each weight and each of the matrices, keys of decompose.MATRICES.

    {"weight", "layer", "module", "inputs", "outputs", "matrix", "method", "error", "is_zero",
    every measure, "index", "s"}, and of dW "relative_norm" = ||dW||_F / ||W||_F, which is None for
    a base of zeros. norm_of: ||W||_F of a change; None leaves the relative norm out, where the base
    is not known.
    """
    for change in changes:
        for name in matrices:
            record = _record(change, name, MATRICES[name](change))
            if norm_of is not None and name == "dW":
                whole = norm_of(change)
                record["relative_norm"] = record["frobenius"] / whole if whole else None
            yield record


def means(
    records: Iterable[Mapping[str, Any]], measure: str, *keys: str
) -> dict[tuple[Any, ...], float]:
    """{values of the keys: mean of a measure over their records}, such as by "step", "module"."""
    groups: dict[tuple[Any, ...], list[float]] = {}
    for record in records:
        groups.setdefault(tuple(record[key] for key in keys), []).append(record[measure])
    return {group: float(np.mean(values)) for group, values in groups.items()}


def _record(change: WeightChange, matrix: str, spectrum: Spectrum) -> dict[str, Any]:
    indices, values = sampled(spectrum.s)
    fan_in, fan_out = change.shape
    about = {
        "weight": change.name,
        "layer": change.layer,
        "module": change.path.split("/")[-1],
        "inputs": fan_in,
        "outputs": fan_out,
        "matrix": matrix,
        "method": spectrum.method,
        "error": spectrum.error,
        "is_zero": spectral_norm(spectrum.s) == 0,
    }
    return about | measure(spectrum) | {"index": indices, "s": values}
