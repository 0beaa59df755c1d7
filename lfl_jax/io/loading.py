"""Parameters from the named tensors of a file, tensor by tensor onto the mesh.

Hugging Face folders and GGUF files go through this one loop. What differs between them, the names
of tensors and the order of some rows, is a `Layout`. Shapes, axes and dtypes are the model's specs,
and the host holds one tensor at a time.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, Shaped

from lfl_jax.core import hosts, spec, tree
from lfl_jax.core.sharding import Rules
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import DType, Params, Weight
from lfl_jax.errors import UserError
from lfl_jax.models import llama

# (path, spec, parameter) -> what takes the parameter's place as soon as it is read: quantised, say.
Finish: TypeAlias = Callable[[str, ArraySpec, jax.Array], Weight]


@runtime_checkable
class NamedTensors(Protocol):
    """Tensors of a file by name, each read when it is looked up; shapes are known before."""

    shapes: Mapping[str, tuple[int, ...]]

    def __getitem__(self, name: str) -> np.ndarray: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Layout:
    """How a file format names the tensors of a model, and orders their rows.

    names: parameter path -> tensor; a layer's tensor without its prefix. layer_prefix: with {} for
    the layer's number. config: what states the model's dimensions, for messages. not_loaded:
    tensors that may be there and are no parameters. reorder_rows(path, tensor): the tensor with its
    rows in our order. In all formats a layer's matrices are (out, in); ours are (in, out).
    """

    names: Mapping[str, str]
    layer_prefix: str
    config: str
    not_loaded: frozenset[str] = frozenset()
    reorder_rows: Callable[[str, np.ndarray], np.ndarray] = lambda path, tensor: tensor

    def tensor_names(self, path: str, n_layers: int) -> list[str]:
        """The names of a parameter's tensors: one, or one per layer of a stack."""
        name = self.names[path]
        if not _is_stacked(path):
            return [name]
        return [self.layer_prefix.format(i) + name for i in range(n_layers)]

    def tensor_shapes(self, specs: Params) -> dict[str, tuple[int, ...]]:
        """{tensor: its shape in the file} for a model with these specs."""
        shapes: dict[str, tuple[int, ...]] = {}
        for path, leaf in tree.items(specs, spec.is_spec):
            # (L, in, out) is one (out, in) per layer in the file.
            shape = leaf.shape[:0:-1] if _is_stacked(path) else leaf.shape
            shapes |= dict.fromkeys(self.tensor_names(path, leaf.shape[0]), shape)
        return shapes


def parameter_names(modules: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """`Layout.names` from what a format calls the linear modules of a layer.

    modules: "attn/q" -> MODULE, whose tensors are MODULE.weight and MODULE.bias. others: the names
    of all further parameters.
    """
    by_weight = {path.split("/")[1]: module for path, module in modules.items()}
    names = dict(others) | {f"layers/{path}": f"{name}.weight" for path, name in modules.items()}
    for group, weights in llama.BIASES.items():
        names |= {f"layers/{group}/{weight}": f"{by_weight[weight]}.bias" for weight in weights}
    return names


def load(
    source: Path,
    tensors: NamedTensors,
    layout: Layout,
    specs: Params,
    rules: Rules,
    finish: Finish = lambda path, leaf, parameter: parameter,
) -> Params:
    """The parameters that `specs` declares, on the mesh: matrices (in, out), layers stacked.

    Raises UserError, before anything is read, naming the tensor that is missing, has another shape,
    or has no place in the model; and for a parameter with a number that is not finite.
    """
    check(source, tensors, layout, specs)
    parameters = []
    for path, leaf in tree.items(specs, spec.is_spec):
        parameter = _read(path, leaf, tensors, layout, rules)
        _require_finite(source, path, parameter)
        parameters.append(finish(path, leaf, parameter))
    return jax.tree.unflatten(jax.tree.structure(specs, is_leaf=spec.is_spec), parameters)


def check(source: Path, tensors: NamedTensors, layout: Layout, specs: Params) -> None:
    """UserError naming the tensor that is missing, has another shape, or has no place."""
    # First, since a damaged config may claim so many layers that their names fill the memory.
    n_layers = specs["layers"]["attn_norm"].shape[0]
    if n_layers > len(tensors):
        raise UserError(
            f"{source}: {n_layers} layers by {layout.config}, but only {len(tensors)} tensors"
        )
    expected = layout.tensor_shapes(specs)
    missing = [name for name in expected if name not in tensors.shapes]
    if missing:
        raise UserError(
            f"{source}: tensor {missing[0]!r} is missing ({len(missing)} of {len(expected)} are)"
        )
    for name, shape in expected.items():
        if tensors.shapes[name] != shape:
            raise UserError(
                f"{source}: tensor {name!r} has shape {tensors.shapes[name]}; expected {shape} by"
                f" {layout.config}"
            )
    unknown = [name for name in tensors if name not in expected and name not in layout.not_loaded]
    if unknown:
        raise UserError(
            f"{source}: tensor {unknown[0]!r} has no place in the model ({len(unknown)} have none)"
        )


def _read(
    path: str, leaf: ArraySpec, tensors: NamedTensors, layout: Layout, rules: Rules
) -> jax.Array:
    """One parameter: read, transposed and cast on the devices, layer by layer into its stack."""
    sharding = rules.storage_sharding(leaf.axes, leaf.shape)
    names = layout.tensor_names(path, leaf.shape[0])
    if not _is_stacked(path):
        return hosts.to_devices(tensors[names[0]], sharding).astype(leaf.dtype)

    # A tensor arrives (out, in), sharded so that transposing it moves nothing between devices.
    axes = (*sharding.spec, *(None,) * (len(leaf.shape) - len(sharding.spec)))[1:]
    in_file_order = NamedSharding(rules.mesh, PartitionSpec(*reversed(axes)))
    stack = _zeros(leaf.shape, leaf.dtype, sharding)()
    for i, name in enumerate(names):
        tensor = hosts.to_devices(layout.reorder_rows(path, tensors[name]), in_file_order)
        # Dispatch is asynchronous: without waiting, many tensors would lie in host memory.
        stack = jax.block_until_ready(_fill(stack, tensor, i))
    return stack


def _require_finite(source: Path, path: str, parameter: jax.Array) -> None:
    """UserError for NaN or infinity: one of them makes every output NaN, hours later."""
    # On the devices, where the parameter is, and with the same answer for every process.
    if not bool(_is_finite(parameter)):
        raise UserError(
            f"{source}: {path} holds NaN or infinity, or numbers too large for {parameter.dtype};"
            " the file is damaged, or its training had diverged"
        )


@jax.jit
def _is_finite(parameter: Shaped[Array, "..."]) -> Bool[Array, ""]:
    return jnp.isfinite(parameter).all()


def _is_stacked(path: str) -> bool:
    return path.startswith("layers/")


@functools.lru_cache(maxsize=64)  # one compilation per shape, not per parameter
def _zeros(
    shape: tuple[int, ...], dtype: DType, sharding: NamedSharding
) -> Callable[[], jax.Array]:
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)


@functools.partial(jax.jit, donate_argnums=0)
def _fill(
    stack: Shaped[Array, "L ..."], layer: Shaped[Array, "..."], index: int | Int[Array, ""]
) -> Shaped[Array, "L ..."]:
    return jax.lax.dynamic_update_index_in_dim(stack, layer.T.astype(stack.dtype), index, 0)
