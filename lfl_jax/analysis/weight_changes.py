"""What training did to each linear weight of each layer: dW, and the W that it is a change of.

All of analysis/ reads weights through here, one weight of one layer at a time, whatever they come
from: an adapter of any kind, parameters that trained, or two folders of Hugging Face checkpoints.
Other parameters (embeddings, norms, biases) have no spectrum; `others_of_model` and
`others_of_folders` name those that changed.

Letters: I inputs, O outputs, R rank. A weight is (I, O), as y = x W; a Hugging Face file's is
(O, I), and is transposed here.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lfl_jax import quant
from lfl_jax.adapters.adapter_tree import (
    as_adapter_and_params,
    as_params,
    named_layers,
    weight,
)
from lfl_jax.adapters.build import require_bound
from lfl_jax.adapters.extract import changed_paths
from lfl_jax.adapters.kind import Shared
from lfl_jax.adapters.mix import AdapterLayer, members
from lfl_jax.adapters.truncate import layer_of, low_rank_factors
from lfl_jax.core import hosts
from lfl_jax.core.types import AdapterTree, Params, Weight
from lfl_jax.errors import UserError
from lfl_jax.io import hf, loading, tensor_file
from lfl_jax.io.hf_names import MODULES
from lfl_jax.io.tensor_file import Tensors
from lfl_jax.model import Model
from lfl_jax.models import llama

# The linear weights of a layer, in the order in which they are computed with.
PATHS = tuple(f"layers/{module}" for module in MODULES)
NAME = "weight change"

Factors = tuple[Float[np.ndarray, "I R"], Float[np.ndarray, "R O"]]


@dataclasses.dataclass(frozen=True, eq=False)
class WeightChange:
    """The change of one weight (I, O) of one layer. Arrays are computed when asked for, not kept.

    path: of the weight's stack, "layers/attn/q". factors: a and b with dW = a b, the scale in a;
    None where dW is not known to be of low rank. Factors of rank 0 are a weight that nothing
    changed. stored_as: the dtype that the changed weight was rounded to; float32 for an adapter's.
    """

    path: str
    layer: int
    shape: tuple[int, int]
    factors: Factors | None
    read_change: Callable[[], np.ndarray]
    read_base: Callable[[], np.ndarray]
    stored_as: str = "float32"

    @property
    def name(self) -> str:
        """The path with the layer's number, "layers/3/attn/q"."""
        return unstacked_name(self.path, self.layer)

    def dense(self) -> Float[np.ndarray, "I O"]:
        """dW in float32. UserError for values that are not finite.

        Collective where arrays are sharded over processes, and so is `base`.
        """
        return _finite(self.name, "change", self.read_change())

    def base(self) -> Float[np.ndarray, "I O"]:
        """W in float32, dequantised where it is quantised; UserError for one that is not finite."""
        return _finite(self.name, "base", self.read_base())

    def is_zero(self) -> bool:
        """Whether dW is exactly zero, as a fresh adapter's is: it has no rank and no direction."""
        if self.factors is not None:
            return not all(factor.any() for factor in self.factors)
        return not self.dense().any()


def unstacked_name(path: str, layer: int) -> str:
    """A weight of one layer: ("layers/attn/q", 3) is "layers/3/attn/q"."""
    return path.replace("layers/", f"layers/{layer}/", 1)


def of_model(base: Params, tuned: Model) -> Iterator[WeightChange]:
    """Every linear weight of a model against its base: adapter and trained parameters together.

    dW = tuned W + the adapter's dW - base W. A quantised weight counts as what it is dequantised
    to. With tuned parameters that are quantised, `base` says what the change is against: the same
    quantised ones, or the original ones (then what quantisation lost is a part of dW).

    Raises UserError, before anything is computed, for other shapes or vocabularies, an adapter that
    was trained over other weights, and an adapter that is not linear.
    """
    base = as_params(NAME, base)
    adapter, params = as_adapter_and_params(NAME, tuned.adapter, tuned.params)
    changed = set(_changed(base, params))
    _require_fits(adapter, params)
    require_bound(NAME, adapter, params)
    return _of_stacks(base, params, adapter, changed)


def others_of_model(base: Params, tuned: Model) -> tuple[str, ...]:
    """Paths of changed parameters that are not linear weights, such as "embed"."""
    return tuple(path for path in _changed(base, tuned.params) if path not in PATHS)


def _changed(base: Params, tuned: Params) -> list[str]:
    """Paths of the parameters that differ; a head that was untied counts as one."""
    if "head" in tuned and "head" not in base:
        base = base | {"head": base["embed"]}
    _require_one_vocabulary(base["embed"].shape[0], tuned["embed"].shape[0])
    return changed_paths(NAME, tuned, base)


def _require_one_vocabulary(before: int, after: int) -> None:
    if before != after:
        raise UserError(
            f"{NAME}: the base has a vocabulary of {before} tokens, the tuned model one of"
            f" {after}; they are not of one model"
        )


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
        _require_linear(layer, w, adapter.get("shared"))


def _require_linear(layer: AdapterLayer, w: Weight, shared: Shared) -> None:
    """The error of a kind that has no dW, raised while the shapes are traced: nothing runs."""

    def delta(layer: AdapterLayer, w: Weight) -> Float[Array, "I O"]:
        return layer_of(layer, 0, shared).delta(_row(w, 0))

    jax.eval_shape(delta, layer, w)


def _of_stacks(
    base: Params, tuned: Params, adapter: AdapterTree, changed: set[str]
) -> Iterator[WeightChange]:
    layers, shared = dict(named_layers(adapter)), adapter.get("shared")
    for index in range(base["layers"]["attn_norm"].shape[0]):
        for path in PATHS:
            stacks = _Stacks(
                base=weight(base, path),
                tuned=weight(tuned, path),
                adapter=layers.get(path),
                shared=shared,
                is_trained=path in changed,
            )
            yield stacks.change(path, index)


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
            read_base=lambda: _to_numpy(_row(self.base, index)),
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
        return _finite(name, "change", a * scale), _finite(name, "change", b)

    def _dense(self, index: int) -> Float[np.ndarray, "I O"]:
        tuned, dw = _row(self.tuned, index), np.float32(0)
        if self.adapter is not None:
            dw = _to_numpy(layer_of(self.adapter, index, self.shared).delta(tuned))
        if not self.is_trained:
            return dw
        # the difference first: it is small, and exact where both have bfloat16's few digits
        return (_to_numpy(tuned) - _to_numpy(_row(self.base, index))) + dw


def of_folders(base: Path, tuned: Path) -> Iterator[WeightChange]:
    """Every linear weight of two Hugging Face folders, read tensor by tensor.

    Raises UserError, before any tensor is read, for damaged folders and for models of other shapes
    or vocabularies.
    """
    before, after = _open_pair(base, tuned)
    return _of_tensors(before, after)


def others_of_folders(base: Path, tuned: Path) -> tuple[str, ...]:
    """Paths of changed parameters that are not linear weights, such as "embed"."""
    before, after = _open_pair(base, tuned)
    n_layers, changed = _n_layers(before), []
    for path in hf.LAYOUT.names:
        names = [name for name in hf.LAYOUT.tensor_names(path, n_layers) if name in after.shapes]
        if path not in PATHS and any(_differ(before, after, name) for name in names):
            changed.append(path)
    return tuple(changed)


def _differ(before: Tensors, after: Tensors, name: str) -> bool:
    # the head of a tied model is its embedding, whether or not the file repeats it
    known = name if name in before.shapes else hf.LAYOUT.names["embed"]
    return not np.array_equal(before[known], after[name])


def _open_pair(base: Path, tuned: Path) -> tuple[Tensors, Tensors]:
    cfgs = [hf.read_config(folder) for folder in (base, tuned)]
    _require_one_vocabulary(cfgs[0].vocab_size, cfgs[1].vocab_size)
    pair = [tensor_file.open_folder(folder, ignore=hf.BUFFERS) for folder in (base, tuned)]
    for folder, tensors, cfg in zip((base, tuned), pair, cfgs, strict=True):
        loading.check(folder, tensors, hf.LAYOUT, llama.specs(cfg))

    before, after = pair
    for name, shape in before.shapes.items():
        # a head that one of the two does not repeat is its embedding
        if name in after.shapes and after.shapes[name] != shape:
            raise UserError(
                f"{NAME}: tensor {name!r} is {shape} in {base}, {after.shapes[name]} in {tuned};"
                " they are not of one model"
            )
    if cfgs[0].n_layers != cfgs[1].n_layers:
        raise UserError(
            f"{NAME}: {base} has {cfgs[0].n_layers} layers, {tuned} {cfgs[1].n_layers}; they are"
            " not of one model"
        )
    return before, after


def _n_layers(tensors: Tensors) -> int:
    return sum(name.endswith(hf.LAYOUT.names["layers/attn_norm"]) for name in tensors)


def _of_tensors(before: Tensors, after: Tensors) -> Iterator[WeightChange]:
    n_layers = _n_layers(before)
    for index in range(n_layers):
        for path in PATHS:
            name = hf.LAYOUT.tensor_names(path, n_layers)[index]
            yield _of_tensor(path, index, name, before, after)


def _of_tensor(path: str, index: int, name: str, before: Tensors, after: Tensors) -> WeightChange:
    def read(tensors: Tensors) -> np.ndarray:
        return tensors[name].astype(np.float32).T

    fan_out, fan_in = before.shapes[name]
    return WeightChange(
        path=path,
        layer=index,
        shape=(fan_in, fan_out),
        factors=None,
        read_change=lambda: read(after) - read(before),
        read_base=lambda: read(before),
        stored_as=after.dtypes[name],
    )


def _row(stack: Weight | AdapterLayer, index: int) -> Weight | AdapterLayer:
    """One layer of stacked leaves."""
    return jax.tree.map(lambda x: x[index], stack)


def _to_numpy(w: Weight) -> Float[np.ndarray, "I O"]:
    dense = quant.dense(w)
    # float32 on the host: a device may be short of memory for a second copy
    on_host = hosts.to_numpy(dense) if isinstance(dense, jax.Array) else dense
    return np.asarray(on_host).astype(np.float32)


def _finite(name: str, what: str, x: np.ndarray) -> np.ndarray:
    """The array itself."""
    if not np.isfinite(x).all():
        raise UserError(f"{name}: its {what} has values that are not finite, so it has no spectrum")
    return x
