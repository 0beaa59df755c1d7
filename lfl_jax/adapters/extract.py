"""The LoRA that comes nearest to what training did to the weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.truncate import truncate
from lfl_jax.core import tree
from lfl_jax.errors import UserError


class Extracted(NamedTuple):
    """What `extract` found: a LoRA, its relative error, and the paths of other parameters that changed."""

    adapter: dict
    error: float
    others: tuple[str, ...]


def extract(tuned: dict, base: dict, rank: int) -> Extracted:
    """The LoRA of this rank nearest to tuned - base at the linear weights, and what it leaves out.

    Differences are taken in float32, a layer at a time; the error is `truncate`'s. A weight that did not change is
    None. `others` names the parameters beside these weights that changed (norms, embeddings): no LoRA holds them, so
    base and adapter together are `tuned` only when there are none. UserError for trees of different structure or
    shapes, unstacked layers, or a rank that does not fit.
    """
    _check_same_structure(tuned, base)
    pairs = zip(tree.paths(base), jax.tree.leaves(tuned), jax.tree.leaves(base), strict=True)
    changed = {path for path, x, y in pairs if x is not y and not jnp.array_equal(x, y)}
    layers = {
        part: {n: _Tuned(w) if f"layers/{part}/{n}" in changed else None for n, w in tuned["layers"][part].items()}
        for part in ("attn", "mlp")
    }
    adapter, error = truncate({"layers": layers}, base, rank)
    linear = {f"layers/{part}/{name}" for part in layers for name in layers[part]}
    return Extracted(adapter, error, tuple(path for path in tree.paths(base) if path in changed - linear))


@struct.dataclass
class _Tuned(Kind):
    """A weight after training, as an adapter layer: its dW is formed only where asked for."""

    w: Any

    def delta(self, w: Any) -> Float[Array, "I O"]:
        return self.w.astype(jnp.float32) - quant.dense(w).astype(jnp.float32)


def _check_same_structure(tuned: dict, base: dict) -> None:
    after, before = (dict(zip(tree.paths(x), jax.tree.leaves(x), strict=True)) for x in (tuned, base))
    if odd := sorted(after.keys() ^ before.keys()):
        raise UserError(f"extract: only one of the two has {', '.join(odd[:5])}{' ...' if len(odd) > 5 else ''}")
    for path, x in after.items():
        if x.shape != before[path].shape:
            raise UserError(f"extract: {path} is {x.shape} in one and {before[path].shape} in the other")
    if not isinstance(base["layers"], dict) or not isinstance(tuned["layers"], dict):
        raise UserError("extract: the layers are unstacked; expected the stacked parameters")
