"""What a finished change does when it is altered, without training again.

Each function takes a base, the model that was tuned from it and a value, and returns the altered
model: over several values it traces a curve from learning to forgetting, which costs evaluations
alone. Models of one curve have the same structure and shapes, so that they share the compiled
programs of their evaluation; where a value leaves the tuned model as it is, they are that model's.

A change is what an adapter adds, or the difference of parameters that trained, or both; over a
quantised base, against what its weights are dequantised to. Inputs are never written to.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from lfl_jax import adapters, notices
from lfl_jax.adapters import compose
from lfl_jax.adapters.full_delta import FullDelta
from lfl_jax.adapters.lora import LoRA
from lfl_jax.adapters.mix import AdapterLayer
from lfl_jax.adapters.truncate import norm
from lfl_jax.analysis import weight_changes
from lfl_jax.analysis.altered_model import (
    Altered,
    Leaf,
    adapted_paths,
    leaf,
    leaves,
    trained_paths,
    trained_weights,
    with_leaves,
)
from lfl_jax.analysis.intruder_scaling import (
    in_random_directions,
    intruder_components,
    with_components_scaled,
)
from lfl_jax.core.types import AdapterTree
from lfl_jax.errors import UserError
from lfl_jax.model import Model

# What an intervention is told: a factor, a rank, or the name of a part.
Value: TypeAlias = float | int | str


def scaled(base: Model, tuned: Model, factor: float) -> Altered:
    """W + factor dW: 0 is the base and 1 the tuned model, both bit for bit.

    Between 0 and 1 it is the average of base and tuned weights (WiSE-FT, Wortsman et al., arXiv
    2109.01903); below 0 the change is undone beyond the base, above 1 overdone.
    """

    def between(ours: Leaf, theirs: Leaf) -> Leaf:
        # What did not train is the base's own array. Not ours + factor (theirs - ours), which
        # would not be exactly `theirs` at 1.
        return ours if theirs is ours else (1 - factor) * ours + factor * theirs

    params = jax.tree.map(between, base.params, tuned.params)
    adapter = adapters.scale(tuned.adapter, factor) if tuned.adapter else {}
    return Altered(Model(params=params, adapter=adapter), {})


def truncated(base: Model, tuned: Model, rank: int) -> Altered:
    """The linear weights' dW replaced by its best approximation of this rank (Eckart, Young 1936).

    Other parameters that trained, such as norms, stay as they are, so that a full rank is the tuned
    model up to rounding. relative_error, of the facts: ||dW - dW_k||_F / ||dW||_F over all weights,
    measured, so that at a full rank it is the rounding. Low-rank adapters keep their stored rank;
    of others dW is stored whole. Raises UserError for a rank that a changed weight cannot have, and
    for a weight that trained below its adapter.
    """
    trained = trained_weights(base, tuned)
    _require_apart(trained, adapted_paths(tuned))
    total, lost = _squared_change(base, tuned, trained), 0.0
    adapter, params = tuned.adapter, tuned.params
    if adapter:
        lora, _ = adapters.truncate(adapter, params, rank)
        adapter = _as_stored(lora, adapters.fuse(adapter))
        lost = norm(adapters.add(tuned.adapter, adapters.negate(adapter)), params) ** 2
    if trained:
        nearest = adapters.extract(params, base.params, rank).adapter
        # Norms and embeddings have no rank to cut, so that the rest of `params` stays.
        before = leaves(base.params, trained, like=params)
        params = adapters.merge(nearest, with_leaves(params, before))
        lost += sum(_square(leaf(params, path) - leaf(tuned.params, path)) for path in trained)

    if not total:
        notices.warn("truncate: the change is zero, so that every rank of it is the base")
    error = math.sqrt(lost / total) if total else 0.0
    return Altered(Model(params=params, adapter=adapter), {"relative_error": error})


def without(base: Model, tuned: Model, part: str) -> Altered:
    """The tuned model without the change of one part, which is the base's again, bit for bit.

    part: a kind of module ("q", "down"), a group ("attn", "mlp"), a layer ("layers/0"), a module of
    one ("layers/0/attn/q"), or another parameter ("embed"): whatever is a stretch of a parameter's
    path. UserError for a part in which nothing changed, with those that did.
    """
    trained = trained_paths(base, tuned)
    n_layers = tuned.params["layers"]["attn_norm"].shape[0]
    chosen = {path: _rows(path, part, n_layers) for path in (*trained, *adapted_paths(tuned))}
    count = sum(int(rows.sum()) for rows in chosen.values())
    if not count:
        there = ", ".join(chosen) or "no part: it is zero"
        raise UserError(f"without {part}: nothing changed there; the change is in {there}")

    restored = {}
    for path, before in leaves(base.params, trained, like=tuned.params).items():
        after = leaf(tuned.params, path)
        rows = chosen[path].reshape(-1, *(1,) * (after.ndim - 1))
        restored[path] = jnp.where(rows, before, after)

    def kept(path: str, layers: Sequence[AdapterLayer | None]) -> AdapterLayer | None:
        if layers[0] is None or not chosen[path].any():
            return layers[0]
        # A layer of factor 1 keeps its values, one of factor 0 changes nothing.
        scale = jax.vmap(lambda layer, factor: layer.scaled(factor))
        return scale(layers[0], jnp.where(chosen[path], 0.0, 1.0))

    adapter = compose.zip_layers("without", kept, tuned.adapter) if tuned.adapter else {}
    model = Model(params=with_leaves(tuned.params, restored), adapter=adapter)
    return Altered(model, {"weights": float(count)})


def _squared_change(base: Model, tuned: Model, trained: Sequence[str]) -> float:
    """||dW||_F^2 over all weights; UserError that names one with values that are not finite."""
    total = norm(tuned.adapter, tuned.params) ** 2 if tuned.adapter else 0.0
    total += sum(_square(leaf(tuned.params, path) - leaf(base.params, path)) for path in trained)
    # A decomposition would fail on them with an error of its own, which names nothing.
    if not math.isfinite(total):
        for change in weight_changes.of_model(base.params, tuned):
            change.dense()
    return total


def _as_stored(lora: AdapterTree, fused: AdapterTree) -> AdapterTree:
    """A truncated adapter in the shapes that all ranks share.

    That is the rank of the whole adapter, where it is low-rank at a weight, and dW elsewhere.
    """

    def stored(path: str, layers: Sequence[AdapterLayer | None]) -> AdapterLayer | None:
        layer, whole = layers
        if layer is None:
            return None
        if not isinstance(whole, LoRA):
            # Its dW may have any rank: stored as factors, every rank would have its own shapes.
            dw = jnp.einsum("lir,lr,lro->lio", layer.a, layer.scale, layer.b)
            return FullDelta(dw, jnp.ones((dw.shape[0], 1)))
        rank = whole.scale.shape[-1]
        # Components beyond the rank of the whole are zero.
        missing = max(rank - layer.scale.shape[-1], 0)
        a = jnp.pad(layer.a, ((0, 0), (0, 0), (0, missing)))[..., :rank]
        b = jnp.pad(layer.b, ((0, 0), (0, missing), (0, 0)))[:, :rank]
        return LoRA(a, b, jnp.pad(layer.scale, ((0, 0), (0, missing)))[:, :rank])

    return compose.zip_layers("truncate", stored, lora, fused)


def _require_apart(trained: Sequence[str], adapted: Sequence[str]) -> None:
    if both := sorted({*trained} & {*adapted}):
        raise UserError(
            f"truncate: {both[0]} trained and has an adapter, too; merge the adapter first, so that"
            " there is one change to truncate"
        )


def _rows(path: str, part: str, n_layers: int) -> Bool[np.ndarray, " L"]:
    """In which layers of a stack the part is; of a parameter without layers, one entry."""
    first, *rest = path.split("/")
    # As paths of unstacked layers are written, "layers/0/attn/q".
    names = [f"layers/{i}/{'/'.join(rest)}" for i in range(n_layers)] if rest else [first]
    return np.array([f"/{part}/" in f"/{name}/" for name in names])


def _square(x: Leaf) -> float:
    return float(jnp.sum(jnp.square(x.astype(jnp.float32))))


class Intervention(NamedTuple):
    """An entry of INTERVENTIONS.

    apply: (base, tuned, value, shared) -> the altered model. shared: (base, tuned) -> what is the
    same for all values, and may be kept from one to the next.
    """

    apply: Callable[[Model, Model, Value, AdapterTree], Altered]
    shared: Callable[[Model, Model], AdapterTree] | None = None

    def of(self, base: Model, tuned: Model, value: Value) -> Altered:
        """The altered model, with nothing kept."""
        return self.apply(base, tuned, value, self.shared(base, tuned) if self.shared else {})


# The field of a study's arm without training -> what it does. The values that it takes, and what
# they are called, are in studies/points.py, which reports read without jax.
INTERVENTIONS: dict[str, Intervention] = {
    "scales": Intervention(lambda base, tuned, x, _: scaled(base, tuned, float(x))),
    "truncate": Intervention(lambda base, tuned, rank, _: truncated(base, tuned, rank)),
    "intruders": Intervention(
        lambda _, tuned, x, components: with_components_scaled(tuned, components, float(x)),
        shared=intruder_components,
    ),
    "random_directions": Intervention(
        lambda _, tuned, x, components: with_components_scaled(
            tuned, in_random_directions(components), float(x)
        ),
        shared=intruder_components,
    ),
    "without": Intervention(lambda base, tuned, part, _: without(base, tuned, part)),
    # The base itself: what is altered is the prompt, by `studies.running.derived`.
    "shots": Intervention(lambda base, tuned, count, _: scaled(base, tuned, 0.0)),
}
