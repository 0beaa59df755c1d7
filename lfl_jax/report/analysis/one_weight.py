"""What is measured of one weight of one layer, in parts that each need more of it."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lfl_jax.analysis import decompose, intruders, nulls, spectra, subspaces
from lfl_jax.analysis.decompose import Spectrum
from lfl_jax.analysis.intruders import Directions
from lfl_jax.analysis.weight_changes import WeightChange
from lfl_jax.core.svd import SVD
from lfl_jax.report.analysis.measured import Common, Value
from lfl_jax.report.analysis.measures import BY_NAME, NULL


@dataclass(frozen=True, eq=False)
class Part:
    """A part of what a `measured.Weight` holds: values by measure, and its other fields."""

    values: Mapping[str, Value]
    fields: Mapping[str, object]


def rank_of(change: WeightChange) -> int | None:
    """The rank that a change's factors allow; None of a dense one."""
    return None if change.factors is None else change.factors[0].shape[1]


def of_spectrum(change: WeightChange, spectrum: Spectrum) -> Part:
    """Ranks and norms, beside those of a random change of this norm."""
    null, values = gaussian(change.shape, rank_of(change)), spectra.measure(spectrum)
    random = spectra.measure(null)
    # A norm's null would be the norm: it is what the random change was given.
    beside = {f"{name}{NULL}": random[name] for name in values if BY_NAME[name].null}
    scaled = null.s * values["frobenius"]
    return Part(values | beside | {"error": spectrum.error}, {"random_s": scaled})


@functools.cache
def gaussian(shape: tuple[int, int], rank: int | None) -> Spectrum:
    """The null, of norm 1; weights of one shape and rank share it."""
    if rank is None or rank >= min(shape):
        return nulls.gaussian(shape)
    return nulls.gaussian_factors(shape, rank)


def beside_dense(change: WeightChange, spectrum: Spectrum) -> Part:
    """What an optimizer's signs have, and the rounding of a checkpoint in half precision."""
    # An adapter has neither: signs of its factors are no signs of dW, and nothing rounded it.
    signs, floor = nulls.one_step(change), nulls.rounding_floor(change)
    values = _ranks(signs, "one_step")
    if floor is None:
        return Part(values, {"one_step_s": signs.s})
    values |= _ranks(nulls.without_floor(spectrum, floor), "net")
    return Part(values, {"one_step_s": signs.s, "rounding_s": floor.s})


def _ranks(spectrum: Spectrum, suffix: str) -> dict[str, Value]:
    measured = spectra.measure(spectrum)
    return {f"{name}_{suffix}": measured[name] for name in ("k90", "effective_rank")}


def norms(
    w: Float[np.ndarray, "I O"],
    s: Float[np.ndarray, " K"],
    rounding: Float[np.ndarray, " N"] | None,
) -> Part:
    """dW's norm over W's, and what rounding alone has. s, rounding: singular values."""
    values = {"relative_norm": spectra.relative_norm(spectra.frobenius_norm(s), w)}
    if rounding is not None:
        null = spectra.relative_norm(spectra.frobenius_norm(rounding), w)
        values[f"relative_norm{NULL}"] = null
    return Part(values, {})


@dataclass(frozen=True, eq=False)
class Matrices:
    """W and dW of one weight, with the singular values of dW."""

    w: Float[np.ndarray, "I O"]
    dw: Float[np.ndarray, "I O"]
    s: Float[np.ndarray, " K"]


def of_intruders(weight: Matrices) -> Part:
    """Directions of W + dW that W lacks, beside those of random directions of the same size."""
    own = intruders.directions(weight.w, weight.dw)
    random = intruders.directions(weight.w, nulls.in_random_directions(weight.s, weight.w.shape))
    values = {
        "intruders": _count(own),
        f"intruders{NULL}": _count(random),
        "cosine_floor": own.floor,
    }
    return Part(values, {"cosines": own.cosines, "random_cosines": random.cosines})


def _count(directions: Directions) -> int:
    return int(directions.is_intruder().sum())


def of_subspaces(weight: Matrices, own: SVD) -> Part:
    """What dW's first directions, `own`, have in common with W's, and how they amplify W.

    The field base_s is a by-product: W's singular values.
    """
    # All of W's values, since the norms beside the amplification are of all of it.
    base, size, k = decompose.svd_of(weight.w), weight.w.shape[0], len(own.s)
    shared = common(own, decompose.first(base, k))
    null = subspaces.random_similarity(size, k, k)
    amplified = subspaces.amplification(weight.w, own.u, weight.s, own.vt.T, base.s)
    values = {
        "similarity": float(shared[0][-1, -1]),
        f"similarity{NULL}": null.mean,
        "amplification": amplified.factor,
        f"amplification{NULL}": amplified.random_factor,
    }
    return Part(values, {"similarities": shared, "base_s": base.s})


def common(one: SVD, other: SVD) -> Common:
    """Similarities of the first directions of two matrices, of inputs and of outputs."""
    inputs = subspaces.similarities(one.u, other.u)
    return inputs, subspaces.similarities(one.vt.T, other.vt.T)


def of_units(weight: Matrices) -> Part:
    """How outputs changed in norm and in direction (DoRA's analysis)."""
    unit = subspaces.unit_change(weight.w, weight.dw)
    values = {
        "magnitude_change": unit.magnitude,
        f"magnitude_change{NULL}": unit.random_magnitude,
        "direction_change": unit.direction,
        f"direction_change{NULL}": unit.random_direction,
    }
    return Part(values, {"unit": unit})
