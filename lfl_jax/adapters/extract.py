"""The LoRA that comes nearest to what training did to the weights."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.adapters.adapter_tree import as_params
from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.truncate import truncate
from lfl_jax.core import tree
from lfl_jax.errors import UserError


class Extracted(NamedTuple):
    """What `extract` found: a LoRA, its relative error, and the paths of other parameters that
    changed."""

    adapter: dict
    error: float
    others: tuple[str, ...]


def extract(tuned: dict, base: dict, rank: int) -> Extracted:
    """The LoRA of this rank nearest to tuned - base at the linear weights, and what it leaves out.

    Differences are taken in float32, a layer at a time; the error is `truncate`'s. A quantised
    weight counts as what it is dequantised to. A weight that did not change is None. `others` names
    the parameters beside these weights that
    changed (norms, embeddings): no LoRA holds them, so base and adapter together are `tuned` only
    when there are none. UserError for trees of different structure or shapes, unstacked layers, or
    a rank that does not fit.
    """
    tuned, base = as_params("extract", tuned), as_params("extract", base)
    after, before = _weights(tuned), _weights(base)
    _check_same_structure(after, before)
    changed = {path for path, x in after.items() if not _equal(x, before[path])}
    layers = {
        part: {
            n: _Tuned(w) if f"layers/{part}/{n}" in changed else None
            for n, w in tuned["layers"][part].items()
        }
        for part in ("attn", "mlp")
    }
    adapter, error = truncate({"layers": layers}, base, rank)
    linear = {f"layers/{part}/{name}" for part in layers for name in layers[part]}
    return Extracted(adapter, error, tuple(path for path in before if path in changed - linear))


@struct.dataclass
class _Tuned(Kind):
    """A weight after training, as an adapter layer: its dW is formed only where asked for."""

    w: Any

    def delta(self, w: Any) -> Float[Array, "I O"]:
        return quant.dense(self.w).astype(jnp.float32) - quant.dense(w).astype(jnp.float32)


def _weights(params: dict) -> dict[str, Any]:
    """Every parameter by path, quantised ones whole."""
    return dict(tree.items(params, quant.is_quantised))


def _equal(x: Any, y: Any) -> bool:
    return x is y or bool(jnp.array_equal(quant.dense(x), quant.dense(y)))


def _check_same_structure(after: dict[str, Any], before: dict[str, Any]) -> None:
    if odd := sorted(after.keys() ^ before.keys()):
        raise UserError(
            f"extract: only one of the two has {', '.join(odd[:5])}{' ...' if len(odd) > 5 else ''}"
        )
    for path, x in after.items():
        if x.shape != before[path].shape:
            raise UserError(
                f"extract: {path} is {x.shape} in one and {before[path].shape} in the other"
            )
