"""Intruder dimensions of a finished change scaled by a factor: are they what makes it forget?

W' = W + dW + (factor - 1) sum of intruders s v u^T (Shuttleworth et al., arXiv 2410.21228), with
the singular triples of W + dW, and not of dW.
"""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from lfl_jax import adapters, notices
from lfl_jax.adapters import adapter_tree, compose
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import AdapterLayer
from lfl_jax.adapters.truncate import stacked
from lfl_jax.analysis import intruders, weight_changes
from lfl_jax.analysis.altered_model import Altered, adapted_paths, trained_weights
from lfl_jax.analysis.intruders import EPSILON, TOP_K, Directions
from lfl_jax.core import files, tree
from lfl_jax.core.types import AdapterTree
from lfl_jax.model import Model

# of a LoRA, in the order of its arguments
LEAVES = ("a", "b", "scale")


def with_intruders_scaled(
    base: Model, tuned: Model, factor: float, *, epsilon: float = EPSILON, top_k: int = TOP_K
) -> Altered:
    """The tuned model with its intruders times a factor: 0 removes them.

    At 1 it is the tuned model, bit for bit.
    """
    components = intruder_components(base, tuned, epsilon=epsilon, top_k=top_k)
    return with_components_scaled(tuned, components, factor)


def with_random_directions_scaled(
    base: Model,
    tuned: Model,
    factor: float,
    *,
    epsilon: float = EPSILON,
    top_k: int = TOP_K,
    seed: int = 0,
) -> Altered:
    """The control of `with_intruders_scaled`: as many directions with the same s, but random ones.

    What it forgets, a change of that size in any directions makes it forget.
    """
    components = intruder_components(base, tuned, epsilon=epsilon, top_k=top_k)
    return with_components_scaled(tuned, in_random_directions(components, seed), factor)


def intruder_components(
    base: Model, tuned: Model, *, epsilon: float = EPSILON, top_k: int = TOP_K
) -> AdapterTree:
    """The intruders of every weight that changed, as a LoRA: added to the model, it doubles them.

    Its rank is top_k, with scale 0 for directions that are no intruders.
    """
    # Where there is an adapter, also where it is zero: a curve's models share one structure.
    paths = {*adapted_paths(tuned), *trained_weights(base, tuned)}
    rows: dict[str, list[LoRA]] = {path: [] for path in weight_changes.PATHS if path in paths}
    for change in weight_changes.of_model(base.params, tuned):
        if change.path in rows:
            directions = intruders.of_change(change, top_k)
            rows[change.path].append(_component(directions, epsilon, min(top_k, *change.shape)))
    return _tree({path: stacked(loras) for path, loras in rows.items()})


def in_random_directions(components: AdapterTree, seed: int = 0) -> AdapterTree:
    """A LoRA of the same scales whose A and B are random and orthonormal."""

    def randomised(path: str, layers: Sequence[AdapterLayer | None]) -> AdapterLayer | None:
        if layers[0] is None:
            return None
        # Not by Python's own hash of a text, which differs between processes.
        rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
        # As intruders are: singular vectors are orthonormal.
        a, b = layers[0].a, jnp.swapaxes(layers[0].b, 1, 2)
        draws = [np.linalg.qr(rng.normal(size=x.shape))[0].astype(np.float32) for x in (a, b)]
        return LoRA(jnp.asarray(draws[0]), jnp.asarray(draws[1]).swapaxes(1, 2), layers[0].scale)

    return compose.zip_layers("in_random_directions", randomised, components)


def with_components_scaled(tuned: Model, components: AdapterTree, factor: float) -> Altered:
    """The tuned model with what `intruder_components` found times a factor."""
    count = sum(int((layer.scale != 0).sum()) for layer in adapter_tree.layers_of(components))
    if not count:
        notices.warn("there are no intruders to scale: every factor gives the run as it is")
    facts = {"intruders": float(count)}
    # A sum with one more summand may round otherwise, even where that is 0.
    if factor == 1:
        return Altered(tuned, facts)
    added = adapters.scale(components, factor - 1)
    # Not merged over a frozen base, which may be rounded or quantised.
    if tuned.adapter:
        return Altered(tuned.replace(adapter=adapters.add(tuned.adapter, added)), facts)
    return Altered(tuned.replace(params=adapters.merge(added, tuned.params)), facts)


def _component(directions: Directions, epsilon: float, rank: int) -> LoRA:
    """The intruders of one weight (I, O) with their s as the scale, zero-padded to this rank."""
    missing = rank - len(directions.s)
    s = np.where(directions.is_intruder(epsilon), directions.s, 0.0)
    v, u = (np.pad(x, ((0, 0), (0, missing))) for x in (directions.v, directions.u))
    return LoRA(v, u.T, np.pad(s, (0, missing)))


def write_components(components: AdapterTree, file: Path) -> None:
    """The LoRA as .npz: all points of a curve need it, and it takes decomposing every weight."""
    arrays = {path: np.asarray(x) for path, x in tree.items(components)}
    with files.replacing(file) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)


def read_components(file: Path) -> AdapterTree:
    """What `write_components` wrote."""
    with np.load(file) as arrays:
        paths = dict.fromkeys(path.rpartition("/")[0] for path in arrays)
        return _tree({path: _read(arrays, path) for path in paths})


def _read(arrays: Mapping[str, np.ndarray], path: str) -> LoRA:
    return LoRA(*(jnp.asarray(arrays[f"{path}/{leaf}"]) for leaf in LEAVES))


def _tree(layers: Mapping[str, LoRA]) -> AdapterTree:
    parts: dict[str, dict[str, LoRA]] = {"attn": {}, "mlp": {}}
    for path, layer in layers.items():
        _, part, module = path.split("/")
        parts[part][module] = layer
    return {"layers": parts}
