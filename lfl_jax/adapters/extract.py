"""The LoRA that comes nearest to what training did to the weights."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.adapters.adapter_tree import as_params
from lfl_jax.adapters.kind import Kind
from lfl_jax.adapters.truncate import truncate
from lfl_jax.core import tree
from lfl_jax.core.types import AdapterTree, Params, Weight
from lfl_jax.errors import UserError

LINEAR = ("attn", "mlp")


class Extracted(NamedTuple):
    """A LoRA, its relative error, and the paths of other parameters that changed."""

    adapter: AdapterTree
    error: float
    others: tuple[str, ...]


def extract(tuned: Params, base: Params, rank: int) -> Extracted:
    """The LoRA of this rank nearest to tuned - base at the linear weights, and what it leaves out.

    Differences are taken in float32, a layer at a time; the error is `truncate`'s. A quantised
    weight counts as what it is dequantised to. A weight that did not change is None. `others` names
    the parameters beside these weights that changed (norms, embeddings): no LoRA can hold them, so
    base and adapter together are `tuned` only when there are none.

    Raises UserError for trees of different structure or shapes, unstacked layers, or a rank that
    does not fit.
    """
    tuned, base = as_params("extract", tuned), as_params("extract", base)
    changed = changed_paths("extract", tuned, base)
    layers = {part: _changes(part, tuned["layers"][part], changed) for part in LINEAR}
    adapter, error = truncate({"layers": layers}, base, rank)

    # norms and embeddings, which a LoRA has no place for
    linear = {f"layers/{part}/{name}" for part in LINEAR for name in layers[part]}
    return Extracted(adapter, error, tuple(path for path in changed if path not in linear))


def _changes(
    part: str, weights: dict[str, Weight], changed: list[str]
) -> dict[str, "_Change | None"]:
    """The changes of the weights of one part, None where a weight did not change."""
    layers = {}
    for name, w in weights.items():
        layers[name] = _Change(w) if f"layers/{part}/{name}" in changed else None
    return layers


@struct.dataclass
class _Change(Kind):
    """What training did to a weight, as an adapter layer: its dW is formed only where needed."""

    tuned: Any  # (I, O)

    def delta(self, w: Weight) -> Float[Array, "I O"]:
        return quant.dense(self.tuned).astype(jnp.float32) - quant.dense(w).astype(jnp.float32)


def changed_paths(name: str, tuned: Params, base: Params) -> list[str]:
    """Paths of the parameters that differ in value, quantised ones as one.

    Raises UserError as `require_same_shapes` does.
    """
    require_same_shapes(name, tuned, base)
    after = dict(tree.items(tuned, quant.is_quantised))
    before = tree.items(base, quant.is_quantised)
    return [path for path, x in before if not are_equal(after[path], x)]


def require_same_shapes(name: str, tuned: Params, base: Params) -> None:
    """UserError, which starts with `name`, where two models differ in parameters or shapes."""
    after = dict(tree.items(tuned, quant.is_quantised))
    before = dict(tree.items(base, quant.is_quantised))
    # by path and not by structure, so that the error can name what differs
    if odd := sorted(after.keys() ^ before.keys()):
        raise UserError(
            f"{name}: only one of the two has {', '.join(odd[:5])}{' ...' if len(odd) > 5 else ''}"
        )
    for path, x in after.items():
        if x.shape != before[path].shape:
            raise UserError(
                f"{name}: {path} is {x.shape} in one and {before[path].shape} in the other"
            )


def are_equal(x: Weight, y: Weight) -> bool:
    """Whether two parameters have the same values, quantised ones as they are dequantised."""
    if isinstance(x, np.ndarray):  # compared where it is: nothing is compiled or moved to a device
        return x is y or np.array_equal(x, y)
    return x is y or bool(jnp.array_equal(quant.dense(x), quant.dense(y)))
