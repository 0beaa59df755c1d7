"""What training did to each linear weight of each layer: dW, and the W that it is a change of.

All of analysis/ reads weights through here, one weight of one layer at a time, whatever they come
from: an adapter of any kind, parameters that trained, or two folders of Hugging Face checkpoints
(`of_folders`). Other parameters (embeddings, norms, biases) have no spectrum; `others_of_model` and
`others_of_folders` name those that changed.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lfl_jax import quant
from lfl_jax.adapters.adapter_tree import (
    as_adapter_and_params,
    as_params,
    named_layers,
    weight,
)
from lfl_jax.adapters.build import require_bound
from lfl_jax.adapters.extract import are_equal, changed_paths, require_same_shapes
from lfl_jax.adapters.kind import Kind, Shared
from lfl_jax.adapters.mix import AdapterLayer, members
from lfl_jax.adapters.truncate import layer_of, low_rank_factors, row
from lfl_jax.analysis.folder_changes import of_folders, others_of_folders
from lfl_jax.analysis.weight_change import (
    NAME,
    PATHS,
    Factors,
    WeightChange,
    finite,
    require_one_vocabulary,
    unstacked_name,
)
from lfl_jax.core import hosts, tree
from lfl_jax.core.types import AdapterTree, Params, Weight
from lfl_jax.errors import UserError
from lfl_jax.model import Model

__all__ = [
    "PATHS",
    "WeightChange",
    "of_folders",
    "of_model",
    "others_of_folders",
    "others_of_model",
    "unstacked_name",
]


def of_model(
    base: Params, tuned: Model, chosen: Callable[[str], bool] = lambda name: True
) -> Iterator[WeightChange]:
    """Every chosen linear weight of a model against its base: adapter and trained parameters.

    dW = tuned W + the adapter's dW - base W. A quantised weight counts as what it is dequantised
    to. With tuned parameters that are quantised, `base` says what the change is against: the same
    quantised ones, or the original ones (then what quantisation lost is a part of dW).

    chosen: by the names of weights, "layers/3/attn/q". Parameters may be shapes alone
    (`core.spec.abstract`) where nobody asks for their values: an adapter of low rank is its own
    change. Raises UserError, before anything is computed, for other shapes or vocabularies, an
    adapter that was trained over other weights, and an adapter that is not linear.
    """
    base = as_params(NAME, base)
    adapter, params = as_adapter_and_params(NAME, tuned.adapter, tuned.params)
    _require_one_model(base, params)
    _require_fits(adapter, params)
    require_bound(NAME, adapter, params)
    return _of_stacks(base, params, adapter, chosen)


def others_of_model(base: Params, tuned: Model) -> tuple[str, ...]:
    """Paths of changed parameters that are not linear weights, such as "embed"."""
    base = _require_one_model(as_params(NAME, base), tuned.params)
    return tuple(path for path in changed_paths(NAME, tuned.params, base) if path not in PATHS)


def _require_one_model(base: Params, tuned: Params) -> Params:
    """The base, with its embedding as the head where the tuned model has one of its own."""
    if "head" in tuned and "head" not in base:
        base = base | {"head": base["embed"]}
    require_one_vocabulary(base["embed"].shape[0], tuned["embed"].shape[0])
    require_same_shapes(NAME, tuned, base)
    return base


def _require_fits(adapter: AdapterTree, params: Params) -> None:
    """UserError for an adapter of weights of another shape, and for one without a dW."""
    for path, layer in named_layers(adapter):
        w = weight(params, path)
        for member in members(layer):
            shape = member.weight_shape()
            if shape is not None and tuple(shape) != tuple(w.shape):
                raise UserError(
                    f"{NAME}: the adapter at {path} is of a weight {tuple(shape)}, the base has"
                    f" {tuple(w.shape)}; it was trained over another model"
                )
            if member.on_output or type(member).delta is Kind.delta:
                raise UserError(
                    f"{NAME}: the {type(member).__name__} at {path} is not linear: it changes what"
                    " the weight outputs, and has no dW"
                )


def _of_stacks(
    base: Params, tuned: Params, adapter: AdapterTree, chosen: Callable[[str], bool]
) -> Iterator[WeightChange]:
    layers, shared = dict(named_layers(adapter)), adapter.get("shared")
    n_layers = weight(base, PATHS[0]).shape[0]
    stacks = {}
    for path in PATHS:
        names = [unstacked_name(path, index) for index in range(n_layers)]
        if any(chosen(name) for name in names):
            before, after = weight(base, path), weight(tuned, path)
            is_trained = not are_equal(before, after)
            stacks[path] = _Stacks(before, after, layers.get(path), shared, is_trained)

    for index in range(n_layers):
        for path, stack in stacks.items():
            if chosen(unstacked_name(path, index)):
                yield stack.change(path, index)


@dataclasses.dataclass(frozen=True, eq=False)
class _Stacks:
    """One weight of all layers, (L, I, O): before, after, and its adapter if there is one."""

    base: Weight
    tuned: Weight
    adapter: AdapterLayer | None
    shared: Shared
    is_trained: bool

    def change(self, path: str, index: int) -> WeightChange:
        """That of one layer."""
        factors = None if self.is_trained else self._factors(unstacked_name(path, index), index)
        return WeightChange(
            path=path,
            layer=index,
            shape=tuple(self.base.shape[1:]),
            factors=factors,
            read_change=lambda: self._dense(index) if factors is None else factors[0] @ factors[1],
            read_base=lambda: _on_host(self.base, index),
            stored_as=str(jnp.dtype(self.tuned.dtype)) if self.is_trained else "float32",
        )

    def _factors(self, name: str, index: int) -> Factors | None:
        if self.adapter is None:
            # of rank 0: nothing changes this weight
            fan_in, fan_out = self.base.shape[1:]
            return np.zeros((fan_in, 0), np.float32), np.zeros((0, fan_out), np.float32)
        factors = low_rank_factors(layer_of(self.adapter, index, self.shared))
        if factors is None:
            return None
        a, b, scale = factors
        return finite(name, "change", a * scale), finite(name, "change", b)

    def _dense(self, index: int) -> Float[np.ndarray, "I O"]:
        dw = np.float32(0)
        if self.adapter is not None:
            layer = layer_of(self.adapter, index, self.shared)
            dw = _to_numpy(layer.delta(_row(self.tuned, index)))
        if not self.is_trained:
            return dw
        # the difference first: it is small, and exact where both have bfloat16's few digits
        return (_on_host(self.tuned, index) - _on_host(self.base, index)) + dw


def _row(stack: Weight | AdapterLayer, index: int) -> Weight | AdapterLayer:
    """One layer of stacked leaves; of a shape alone, the layer's shape."""
    if isinstance(stack, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype)
    return row(stack, index)


def _on_host(stack: Weight, index: int) -> Float[np.ndarray, "I O"]:
    """One layer of a stack in float32."""
    if tree.in_cpu_memory(stack):
        # of the one shard and not of the stack: np.asarray(stack) would stay cached on it
        return np.asarray(stack.addressable_data(0))[index].astype(np.float32)
    return _to_numpy(_row(stack, index))


def _to_numpy(w: Weight) -> Float[np.ndarray, "I O"]:
    if isinstance(w, jax.ShapeDtypeStruct):
        raise UserError(f"{NAME}: this needs the base's weights, and only their shapes are known")
    dense = quant.dense(w)
    # float32 on the host: a device may be short of memory for a second copy
    on_host = hosts.to_numpy(dense) if isinstance(dense, jax.Array) else dense
    return np.asarray(on_host).astype(np.float32)
