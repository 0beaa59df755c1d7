"""Hugging Face checkpoints of Llama-like models, in and out: config.json and safetensors.

Loading goes tensor by tensor into arrays that lie sharded on the devices: the host holds one tensor
at a time.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lfl_jax.core import spec, tree
from lfl_jax.core.sharding import Rules
from lfl_jax.core.spec import ArraySpec
from lfl_jax.errors import UserError
from lfl_jax.io import tensor_file
from lfl_jax.io.hf_config import config_fields, model_config, read_fields
from lfl_jax.io.hf_names import MODULES
from lfl_jax.io.tensor_file import Tensors
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.quant import require_dense

# of config.json, which generation reads in a file of its own
GENERATION_FIELDS = ("bos_token_id", "eos_token_id")


def _module(weight: str) -> str:
    """The module of a layer's weight, by its last name."""
    return next(module for path, module in MODULES.items() if path.endswith(f"/{weight}"))


NAMES = {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "layers/attn_norm": "input_layernorm.weight",
    "layers/mlp_norm": "post_attention_layernorm.weight",
    **{f"layers/{path}": f"{module}.weight" for path, module in MODULES.items()},
    **{
        f"layers/{group}/{x}": f"{_module(x)}.bias"
        for group, xs in llama.BIASES.items()
        for x in xs
    },
    **{f"layers/qk_norm/{x}": f"self_attn.{x}_norm.weight" for x in "qk"},
}
# our field: what a model was quantised to before it was written
DEQUANTISED_FROM = "lfl_dequantised_from"
# Buffers, of whatever dtype, that checkpoints hold although they are computed: rotary tables,
# masks, positions.
BUFFERS = re.compile(r"(.*\.)?(rotary_emb\..*|position_ids|masked_bias|causal_mask|attention_mask)")


def read_config(folder: Path, fields: dict[str, Any] | None = None) -> ModelConfig:
    """The shape that a config.json describes. UserError for what is missing, malformed, or no
    Llama-like model.

    A model whose file holds a head of its own is not tied, whatever its config says: transformers
    uses that head, too.
    fields: what `read_fields` found there, if it was called.
    """
    cfg = model_config(folder / "config.json", read_fields(folder) if fields is None else fields)
    return dataclasses.replace(cfg, tied=False) if cfg.tied and _has_own_head(folder) else cfg


def _has_own_head(folder: Path) -> bool:
    """Whether the weights hold an output projection that is not a copy of the embedding."""
    try:
        tensors = tensor_file.open_folder(folder, ignore=BUFFERS)
    except UserError:
        return False  # `load` says what is wrong with the weights
    head, embed = NAMES["head"], NAMES["embed"]
    return head in tensors and embed in tensors and not tensors.equal(head, embed)


def load(
    folder: Path,
    cfg: ModelConfig,
    rules: Rules,
    dtype: Any,
    finish: Callable[[str, ArraySpec, jax.Array], Any] = lambda path, spec, x: x,
    progress: Callable[[int], None] | None = None,
) -> dict:
    """The parameters in this dtype, on the mesh: matrices (in, out), layers stacked.

    finish(path, spec, parameter): what takes a parameter's place as soon as it is read, for example
    quantised.
    progress(bytes): told of every tensor read. Raises UserError naming the tensor that is missing,
    is of another shape, or has no place in the model, before anything is read.
    """
    tensors, specs = tensor_file.open_folder(folder, ignore=BUFFERS), llama.specs(cfg, dtype)
    _check(folder, tensors, specs, cfg)
    leaves = [
        finish(path, leaf, _leaf(path, leaf, tensors, rules, progress or (lambda _: None)))
        for path, leaf in tree.items(specs, spec.is_spec)
    ]
    return jax.tree.unflatten(jax.tree.structure(specs, is_leaf=spec.is_spec), leaves)


def tensor_names(path: str, n_layers: int) -> list[str]:
    """What a parameter's tensors are called: one, or one per layer of a stack."""
    if not path.startswith("layers/"):
        return [NAMES[path]]
    return [f"model.layers.{i}.{NAMES[path]}" for i in range(n_layers)]


def _check(folder: Path, tensors: Tensors, specs: dict, cfg: ModelConfig) -> None:
    if cfg.n_layers > len(tensors):
        raise UserError(
            f"{folder}: config.json means {cfg.n_layers} layers; the files hold {len(tensors)}"
            " tensors"
        )
    expected = {}
    for path, leaf in tree.items(specs, spec.is_spec):
        shape = leaf.shape[1:] if path.startswith("layers/") else leaf.shape
        stacked_matrix = path.startswith("layers/") and len(shape) == 2
        for name in tensor_names(path, leaf.shape[0]):
            expected[name] = tuple(reversed(shape)) if stacked_matrix else shape
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise UserError(
            f"{folder}: tensor {missing[0]!r} is missing ({len(missing)} of {len(expected)} are)"
        )
    for name, shape in expected.items():
        if tensors.shapes[name] != shape:
            raise UserError(
                f"{folder}: tensor {name!r} has shape {tensors.shapes[name]}; config.json means"
                f" {shape}"
            )
    copy = {NAMES["head"]} if cfg.tied else set()  # some files hold the embedding a second time
    strange = [name for name in tensors if name not in expected and name not in copy]
    if strange:
        raise UserError(
            f"{folder}: tensor {strange[0]!r} has no place in the model ({len(strange)} have none)"
        )


def _leaf(
    path: str, leaf: ArraySpec, tensors: Tensors, rules: Rules, progress: Callable[[int], None]
) -> jax.Array:
    """One parameter: read, transposed and cast on the devices, layer by layer into its stack."""
    sharding, names = rules.sharding(leaf.axes, leaf.shape), tensor_names(path, leaf.shape[0])
    if not path.startswith("layers/"):
        return jax.jit(lambda x: x.astype(leaf.dtype), out_shardings=sharding)(
            _put(tensors[names[0]], sharding)
        )
    axes = (*sharding.spec, *(None,) * (len(leaf.shape) - len(sharding.spec)))[1:]
    in_file = NamedSharding(rules.mesh, PartitionSpec(*reversed(axes)))
    stack = jax.jit(lambda: jnp.zeros(leaf.shape, leaf.dtype), out_shardings=sharding)()
    for i, name in enumerate(names):
        tensor = tensors[name]
        # else many tensors wait in memory
        stack = jax.block_until_ready(_fill(stack, _put(tensor, in_file), i))
        progress(tensor.nbytes)
    return stack


@partial(jax.jit, donate_argnums=0)
def _fill(stack: Any, layer: Any, index: Any) -> Any:
    return jax.lax.dynamic_update_index_in_dim(stack, layer.T.astype(stack.dtype), index, 0)


def _put(tensor: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(tensor.shape, sharding, lambda index: tensor[index])


def save(
    folder: Path,
    params: dict,
    cfg: ModelConfig,
    *,
    dtype: str = "bfloat16",
    shard_bytes: int = 5_000_000_000,
    extra: dict[str, Any] | None = None,
) -> list[str]:
    """Write config.json and safetensors that transformers loads; the names of the weight files.

    dtype: float32, bfloat16 or float16. extra: more fields for config.json; of these bos_token_id
    and eos_token_id are what generation starts with and stops at, and go into
    generation_config.json as well, which transformers' generate and vLLM read. UserError for
    quantised weights.
    """
    require_dense("save", params)
    # an adapter's own head unties a tied model
    cfg = dataclasses.replace(cfg, tied="head" not in params)
    names = tensor_file.save(folder, _tensors(params, jnp.dtype(dtype)), shard_bytes=shard_bytes)
    fields = config_fields(cfg) | {"torch_dtype": dtype, "dtype": dtype} | (extra or {})
    _write_json(folder / "config.json", fields)
    tokens = {
        name: id_ for name, id_ in fields.items() if name in GENERATION_FIELDS and id_ is not None
    }
    if tokens:
        _write_json(folder / "generation_config.json", tokens)
    return names


def _write_json(file: Path, fields: dict[str, Any]) -> None:
    file.write_text(json.dumps(fields, indent=2) + "\n", "utf-8")


def _tensors(params: dict, dtype: Any) -> Iterator[tuple[str, np.ndarray]]:
    for path, leaf in tree.items(params):
        for i, name in enumerate(tensor_names(path, leaf.shape[0])):
            tensor = leaf[i].T if path.startswith("layers/") else leaf
            yield name, np.asarray(tensor.astype(dtype))
