"""Hugging Face checkpoints of Llama-like models, in and out: config.json and safetensors.

Loading goes tensor by tensor into arrays that lie sharded on the devices: the host holds one tensor at a time.
"""

import dataclasses
import json
import math
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
from lfl_jax.io.hf_names import MODULES
from lfl_jax.io.tensor_file import Tensors
from lfl_jax.models import llama
from lfl_jax.models.config import Llama3Rope, ModelConfig

# model_type -> (what its forward pass adds to Llama's, the class transformers has for it)
FAMILIES: dict[str, tuple[dict[str, bool], str]] = {
    "llama": ({}, "LlamaForCausalLM"),
    "mistral": ({}, "MistralForCausalLM"),
    "qwen2": ({"qkv_bias": True}, "Qwen2ForCausalLM"),
    "qwen3": ({"qk_norm": True}, "Qwen3ForCausalLM"),
}
# Fields that change the forward pass into one we do not have, and the values that do not.
PLAIN: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "quantization_config": (None,),
    "partial_rotary_factor": (1.0, None),
    "num_local_experts": (None,),
}
NAMES = {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "layers/attn_norm": "input_layernorm.weight",
    "layers/mlp_norm": "post_attention_layernorm.weight",
    **{f"layers/{path}": f"{module}.weight" for path, module in MODULES.items()},
    **{f"layers/qkv_bias/{x}": f"self_attn.{x}_proj.bias" for x in "qkv"},
    **{f"layers/qk_norm/{x}": f"self_attn.{x}_norm.weight" for x in "qk"},
}
DEQUANTISED_FROM = "lfl_dequantised_from"  # our field: what a model was quantised to before it was written
IGNORED = ".rotary_emb.inv_freq"  # old checkpoints hold what is computed


def read_config(folder: Path, fields: dict[str, Any] | None = None) -> ModelConfig:
    """The shape that a config.json describes. UserError for what is missing, malformed, or no Llama-like model.

    fields: what `read_fields` found there, if it was called.
    """
    return _model_config(folder / "config.json", read_fields(folder) if fields is None else fields)


def read_fields(folder: Path) -> dict[str, Any]:
    """config.json as it is; UserError when it is missing or malformed."""
    file = folder / "config.json"
    try:
        fields = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; a Hugging Face model is a folder with config.json") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: malformed JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UserError(f"{file}: expected a JSON object")
    return fields


def _model_config(file: Path, fields: dict[str, Any]) -> ModelConfig:
    family = fields.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise UserError(f"{file}: model_type {family!r}; supported are {', '.join(FAMILIES)}")
    for name, plain in PLAIN.items():
        if name in fields and fields[name] not in plain:
            raise UserError(f"{file}: {name}={fields[name]!r} is not supported, only {plain[0]!r}")
    if family == "mistral" and fields.get("sliding_window") is not None:
        raise UserError(f"{file}: sliding_window={fields['sliding_window']!r} is not supported, only null")
    if any(kind != "full_attention" for kind in fields.get("layer_types") or ()):
        raise UserError(f"{file}: layer_types other than 'full_attention' are not supported")
    size, number = partial(_size, file, fields), partial(_number, file, fields)
    d_model, n_heads = size("hidden_size"), size("num_attention_heads")
    rope = _rope(file, fields)
    cfg = ModelConfig(
        vocab_size=size("vocab_size"),
        d_model=d_model,
        n_layers=size("num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=size("num_key_value_heads", n_heads),
        head_dim=size("head_dim", 128 if family == "qwen3" else d_model // n_heads),
        d_ff=size("intermediate_size"),
        rope_theta=_number(file, rope, "rope_theta", number("rope_theta", 10000.0)),
        rope_scaling=_scaling(file, rope, size("max_position_embeddings", 2048)),
        norm_eps=number("rms_norm_eps", 1e-6),
        tied=bool(fields.get("tie_word_embeddings", False)),
        max_seq_len=size("max_position_embeddings", 2048),
        **FAMILIES[family][0],
    )
    if cfg.head_dim % 2 or cfg.n_heads % cfg.n_kv_heads:
        raise UserError(
            f"{file}: {n_heads} heads of {cfg.head_dim} dimensions over {cfg.n_kv_heads} key-value heads;"
            " expected an even size, and whole groups"
        )
    return cfg


def _size(file: Path, fields: dict[str, Any], name: str, default: int | None = None) -> int:
    value = default if fields.get(name) is None else fields[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 1 << 31:
        raise UserError(f"{file}: {name} is {value!r}; expected a positive integer")
    return value


def _number(file: Path, fields: dict[str, Any], name: str, default: float) -> float:
    value = default if fields.get(name) is None else fields[name]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise UserError(f"{file}: {name} is {value!r}; expected a positive number")
    return float(value)


def _rope(file: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters` as newer files have it, or `rope_scaling` of older ones, which keep rope_theta apart."""
    found = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(found, dict):
        raise UserError(f"{file}: rope_parameters is {found!r}; expected an object")
    return found


def _scaling(file: Path, rope: dict[str, Any], length: int) -> Llama3Rope | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise UserError(f"{file}: rotary positions of type {kind!r}; supported are 'default' and 'llama3'")
    low, high = _number(file, rope, "low_freq_factor", 1.0), _number(file, rope, "high_freq_factor", 4.0)
    if low >= high:
        raise UserError(f"{file}: low_freq_factor {low:g} must be below high_freq_factor {high:g}")
    original = _size(file, rope, "original_max_position_embeddings", length)
    return Llama3Rope(_number(file, rope, "factor", 1.0), low, high, original)


def load(
    folder: Path,
    cfg: ModelConfig,
    rules: Rules,
    dtype: Any,
    finish: Callable[[str, ArraySpec, jax.Array], Any] = lambda path, spec, x: x,
    progress: Callable[[int], None] | None = None,
) -> dict:
    """The parameters in this dtype, on the mesh: matrices (in, out), layers stacked.

    finish(path, spec, parameter): what takes a parameter's place as soon as it is read, for example quantised.
    progress(bytes): told of every tensor read. Raises UserError naming the tensor that is missing, is of another
    shape, or has no place in the model, before anything is read.
    """
    tensors, specs = tensor_file.open_folder(folder), llama.specs(cfg, dtype)
    _check(folder, tensors, specs, cfg)
    leaves = [
        finish(path, leaf, _leaf(path, leaf, tensors, rules, progress or (lambda _: None)))
        for path, leaf in zip(tree.paths(specs, spec.is_spec), _leaves(specs), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(specs, is_leaf=spec.is_spec), leaves)


def _leaves(specs: dict) -> list[ArraySpec]:
    return jax.tree.leaves(specs, is_leaf=spec.is_spec)


def tensor_names(path: str, n_layers: int) -> list[str]:
    """What a parameter's tensors are called: one, or one per layer of a stack."""
    if not path.startswith("layers/"):
        return [NAMES[path]]
    return [f"model.layers.{i}.{NAMES[path]}" for i in range(n_layers)]


def _check(folder: Path, tensors: Tensors, specs: dict, cfg: ModelConfig) -> None:
    if cfg.n_layers > len(tensors):
        raise UserError(f"{folder}: config.json means {cfg.n_layers} layers; the files hold {len(tensors)} tensors")
    expected = {}
    for path, leaf in zip(tree.paths(specs, spec.is_spec), _leaves(specs), strict=True):
        shape = leaf.shape[1:] if path.startswith("layers/") else leaf.shape
        stacked_matrix = path.startswith("layers/") and len(shape) == 2
        for name in tensor_names(path, leaf.shape[0]):
            expected[name] = tuple(reversed(shape)) if stacked_matrix else shape
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise UserError(f"{folder}: tensor {missing[0]!r} is missing ({len(missing)} of {len(expected)} are)")
    for name, shape in expected.items():
        if tensors.shapes[name] != shape:
            raise UserError(f"{folder}: tensor {name!r} has shape {tensors.shapes[name]}; config.json means {shape}")
    copy = {NAMES["head"]} if cfg.tied else set()  # some files hold the embedding a second time
    strange = [n for n in tensors if n not in expected and n not in copy and not n.endswith(IGNORED)]
    if strange:
        raise UserError(f"{folder}: tensor {strange[0]!r} has no place in the model ({len(strange)} have none)")


def _leaf(path: str, leaf: ArraySpec, tensors: Tensors, rules: Rules, progress: Callable[[int], None]) -> jax.Array:
    """One parameter: read, transposed and cast on the devices, layer by layer into its stack."""
    sharding, names = rules.sharding(leaf.axes, leaf.shape), tensor_names(path, leaf.shape[0])
    if not path.startswith("layers/"):
        return jax.jit(lambda x: x.astype(leaf.dtype), out_shardings=sharding)(_put(tensors[names[0]], sharding))
    axes = (*sharding.spec, *(None,) * (len(leaf.shape) - len(sharding.spec)))[1:]
    in_file = NamedSharding(rules.mesh, PartitionSpec(*reversed(axes)))
    stack = jax.jit(lambda: jnp.zeros(leaf.shape, leaf.dtype), out_shardings=sharding)()
    for i, name in enumerate(names):
        tensor = tensors[name]
        stack = jax.block_until_ready(_fill(stack, _put(tensor, in_file), i))  # else many tensors wait in memory
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

    dtype: float32, bfloat16 or float16. extra: more fields for config.json, such as bos_token_id.
    """
    cfg = dataclasses.replace(cfg, tied="head" not in params)  # an adapter's own head unties a tied model
    names = tensor_file.save(folder, _tensors(params, jnp.dtype(dtype)), shard_bytes=shard_bytes)
    fields = config_fields(cfg) | {"torch_dtype": dtype, "dtype": dtype} | (extra or {})
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", "utf-8")
    return names


def _tensors(params: dict, dtype: Any) -> Iterator[tuple[str, np.ndarray]]:
    for path, leaf in zip(tree.paths(params), jax.tree.leaves(params), strict=True):
        for i, name in enumerate(tensor_names(path, leaf.shape[0])):
            tensor = leaf[i].T if path.startswith("layers/") else leaf
            yield name, np.asarray(tensor.astype(dtype))


def config_fields(cfg: ModelConfig) -> dict[str, Any]:
    """config.json of this shape, in the style that older and newer versions of transformers read."""
    features = {name: True for name in ("qkv_bias", "qk_norm") if getattr(cfg, name)}
    family = next(name for name, (own, _) in FAMILIES.items() if own == features)
    r = cfg.rope_scaling
    scaling = r and {
        "rope_type": "llama3",
        "factor": r.factor,
        "low_freq_factor": r.low_frequency,
        "high_freq_factor": r.high_frequency,
        "original_max_position_embeddings": r.original_length,
    }
    return {
        "architectures": [FAMILIES[family][1]],
        "model_type": family,
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.n_layers,
        "num_attention_heads": cfg.n_heads,
        "num_key_value_heads": cfg.n_kv_heads,
        "head_dim": cfg.head_dim,
        "intermediate_size": cfg.d_ff,
        "rope_theta": cfg.rope_theta,
        "rope_scaling": scaling,
        "rms_norm_eps": cfg.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": cfg.tied,
        "max_position_embeddings": cfg.max_seq_len,
    }
