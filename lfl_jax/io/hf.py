"""Hugging Face checkpoints of Llama-like models, in and out: config.json and safetensors.

Loading goes tensor by tensor into arrays that lie sharded on the devices: the host holds one tensor at a time.
"""

import dataclasses
import json
import math
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
from lfl_jax.io.hf_names import MODULES
from lfl_jax.io.tensor_file import Tensors
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.models.rope import FactorsRope, LinearRope, Llama3Rope, RopeScaling, YarnRope


@dataclasses.dataclass(frozen=True)
class Family:
    """A model_type of transformers.

    adds: what its forward pass always adds to Llama's. may_add: fields of config.json that add biases.
    defaults: what its config class fills in where a file is silent, as far as it differs from Llama's.
    """

    architecture: str
    adds: dict[str, bool] = dataclasses.field(default_factory=dict)
    may_add: tuple[str, ...] = ()
    defaults: dict[str, int] = dataclasses.field(default_factory=dict)


_QWEN = {"num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28}
_MISTRAL = {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}
FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", may_add=("attention_bias", "mlp_bias")),
    "mistral": Family("MistralForCausalLM", defaults=_MISTRAL),
    "qwen2": Family("Qwen2ForCausalLM", {"qkv_bias": True}, defaults=_QWEN),
    "qwen3": Family("Qwen3ForCausalLM", {"qk_norm": True}, ("attention_bias",), _QWEN | {"head_dim": 128}),
}
BIAS_FIELDS = {"attention_bias": ("qkv_bias", "o_bias"), "mlp_bias": ("mlp_bias",)}  # field -> ModelConfig's
# Fields that change the forward pass into one we do not have, and the values that do not.
PLAIN: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "quantization_config": (None,),
    "partial_rotary_factor": (1.0, None),
    "num_local_experts": (None,),
}


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
    **{f"layers/{group}/{x}": f"{_module(x)}.bias" for group, xs in llama.BIASES.items() for x in xs},
    **{f"layers/qk_norm/{x}": f"self_attn.{x}_norm.weight" for x in "qk"},
}
DEQUANTISED_FROM = "lfl_dequantised_from"  # our field: what a model was quantised to before it was written
# Buffers, of whatever dtype, that checkpoints hold although they are computed: rotary tables, masks, positions.
BUFFERS = re.compile(r"(.*\.)?(rotary_emb\..*|position_ids|masked_bias|causal_mask|attention_mask)")


def read_config(folder: Path, fields: dict[str, Any] | None = None) -> ModelConfig:
    """The shape that a config.json describes. UserError for what is missing, malformed, or no Llama-like model.

    A model whose file holds a head of its own is not tied, whatever its config says: transformers uses that head, too.
    fields: what `read_fields` found there, if it was called.
    """
    cfg = _model_config(folder / "config.json", read_fields(folder) if fields is None else fields)
    return dataclasses.replace(cfg, tied=False) if cfg.tied and _has_own_head(folder) else cfg


def _has_own_head(folder: Path) -> bool:
    """Whether the weights hold an output projection that is not a copy of the embedding."""
    try:
        tensors = tensor_file.open_folder(folder, ignore=BUFFERS)
    except UserError:
        return False  # `load` says what is wrong with the weights
    head, embed = NAMES["head"], NAMES["embed"]
    return head in tensors and embed in tensors and not tensors.equal(head, embed)


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
    name = fields.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(f"{file}: model_type {name!r}; supported are {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    fields = family.defaults | fields
    plain = PLAIN | {field: (False, None) for field in BIAS_FIELDS if field not in family.may_add}
    for field, values in plain.items():
        if field in fields and fields[field] not in values:
            raise UserError(f"{file}: {field}={fields[field]!r} is not supported, only {values[0]!r}")
    size, number = partial(_size, file, fields), partial(_number, file, fields)
    d_model, n_heads = size("hidden_size"), size("num_attention_heads")
    rope = _rope(file, fields)
    theta = _number(file, rope, "rope_theta", number("rope_theta", 10000.0))
    biases = {ours: bool(fields.get(field)) for field in family.may_add for ours in BIAS_FIELDS[field]}
    cfg = ModelConfig(
        vocab_size=size("vocab_size"),
        d_model=d_model,
        n_layers=size("num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=size("num_key_value_heads", n_heads),
        head_dim=size("head_dim", d_model // n_heads),
        d_ff=size("intermediate_size"),
        rope_theta=theta,
        rope_scaling=_scaling(file, rope, fields, theta),
        norm_eps=number("rms_norm_eps", 1e-6),
        tied=bool(fields.get("tie_word_embeddings", False)),
        max_seq_len=size("max_position_embeddings", 2048),
        window=_window(file, name, fields),
        **biases | family.adds,
    )
    if cfg.head_dim % 2 or cfg.n_heads % cfg.n_kv_heads:
        raise UserError(
            f"{file}: {n_heads} heads of {cfg.head_dim} dimensions over {cfg.n_kv_heads} key-value heads;"
            " expected an even size, and whole groups"
        )
    return cfg


def _window(file: Path, family: str, fields: dict[str, Any]) -> int | None:
    """The sliding window of all layers; UserError where some layers have one and others have none."""
    size = partial(_size, file, fields)
    window = None if fields.get("sliding_window") is None else size("sliding_window")
    types = fields.get("layer_types")
    if family in ("qwen2", "qwen3") and fields.get("use_sliding_window"):
        full = min(fields["max_window_layers"], size("num_hidden_layers"))
        sliding = ["sliding_attention"] * (size("num_hidden_layers") - full)
        types = types or ["full_attention"] * full + sliding
    elif family != "mistral":
        window = None
    if types and set(types) == {"sliding_attention"} and window is not None:
        return window
    if types and set(types) != {"full_attention"}:
        raise UserError(f"{file}: layer_types that are not all 'full_attention' are not supported")
    return window if not types else None


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


def _scaling(file: Path, rope: dict[str, Any], fields: dict[str, Any], theta: float) -> RopeScaling | None:
    """How the rotary frequencies are scaled; UserError for kinds that we do not have, with the reason."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor") not in PLAIN["partial_rotary_factor"]:
        raise UserError(f"{file}: partial_rotary_factor={rope['partial_rotary_factor']!r} is not supported, only 1.0")
    if kind == "default":
        return None
    if kind == "dynamic":
        raise UserError(
            f"{file}: rotary positions of type 'dynamic' depend on the length of the whole row, which packed documents"
            " do not share; supported are " + ", ".join(map(repr, ROPES))
        )
    if not isinstance(kind, str) or kind not in ROPES:
        raise UserError(f"{file}: rotary positions of type {kind!r}; supported are {', '.join(map(repr, ROPES))}")
    length = _size(file, fields, "max_position_embeddings", 2048)
    original = _size(file, rope | fields, "original_max_position_embeddings", length)
    if theta <= 1.0:
        raise UserError(f"{file}: rope_theta is {theta:g}; expected more than 1")
    return ROPES[kind](file, rope | {"original_max_position_embeddings": original}, length)


def _linear(file: Path, rope: dict[str, Any], length: int) -> RopeScaling:
    return LinearRope(_number(file, rope, "factor", 1.0))


def _llama3(file: Path, rope: dict[str, Any], length: int) -> RopeScaling:
    low, high = _number(file, rope, "low_freq_factor", 1.0), _number(file, rope, "high_freq_factor", 4.0)
    if low >= high:
        raise UserError(f"{file}: low_freq_factor {low:g} must be below high_freq_factor {high:g}")
    return Llama3Rope(_number(file, rope, "factor", 1.0), low, high, rope["original_max_position_embeddings"])


def _yarn(file: Path, rope: dict[str, Any], length: int) -> RopeScaling:
    """As transformers 5.24 computes it: `_compute_yarn_parameters`."""
    original = rope["original_max_position_embeddings"]
    factor = _number(file, rope, "factor", length / original)

    def stretched(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    default = stretched(1.0)
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        scale, all_dim = (_number(file, rope, name, 1.0) for name in ("mscale", "mscale_all_dim"))
        default = stretched(scale) / stretched(all_dim)
    return YarnRope(
        factor,
        original,
        _number(file, rope, "attention_factor", default),
        _number(file, rope, "beta_fast", 32.0),
        _number(file, rope, "beta_slow", 1.0),
        rope.get("truncate", True) is not False,
    )


def _longrope(file: Path, rope: dict[str, Any], length: int) -> RopeScaling:
    """One list of factors for every length; two would make frequencies depend on a row's length."""
    short, long = rope.get("short_factor"), rope.get("long_factor")
    if not isinstance(short, list) or short != long or rope.get("attention_factor") != 1.0:
        raise UserError(f"{file}: rotary positions of type 'longrope' are supported with one list of factors only")
    names = {str(i): factor for i, factor in enumerate(short)}
    return FactorsRope(tuple(_number(file, names, name, 1.0) for name in names))


# rope_type -> (config.json, its rotary fields, the model's positions) -> what it means
ROPES: dict[str, Callable[[Path, dict[str, Any], int], RopeScaling]] = {
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def _rope_fields(cfg: ModelConfig) -> dict[str, Any] | None:
    """`rope_scaling` of a config.json."""
    match cfg.rope_scaling:
        case None:
            return None
        case LinearRope(factor):
            return {"rope_type": "linear", "factor": factor}
        case Llama3Rope(factor, low, high, original):
            ends = {"low_freq_factor": low, "high_freq_factor": high}
            return {"rope_type": "llama3", "factor": factor, "original_max_position_embeddings": original} | ends
        case YarnRope(factor, original, attention, fast, slow, truncate):
            ends = {"beta_fast": fast, "beta_slow": slow, "truncate": truncate, "attention_factor": attention}
            return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original} | ends
        case FactorsRope(factors):
            lists = {"short_factor": list(factors), "long_factor": list(factors), "attention_factor": 1.0}
            whole = {"factor": 1.0, "original_max_position_embeddings": cfg.max_seq_len}
            return {"rope_type": "longrope"} | whole | lists


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
    tensors, specs = tensor_file.open_folder(folder, ignore=BUFFERS), llama.specs(cfg, dtype)
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
    strange = [name for name in tensors if name not in expected and name not in copy]
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
    name = next(name for name, needed in WRITTEN_AS.items() if needed(cfg))
    family = FAMILIES[name]
    biases = {field: all(getattr(cfg, ours) for ours in BIAS_FIELDS[field]) for field in family.may_add}
    qwen = {"use_sliding_window": cfg.window is not None, "max_window_layers": 0 if cfg.window else cfg.n_layers}
    windows = {"sliding_window": cfg.window} | (qwen if name.startswith("qwen") else {})
    return {
        "architectures": [family.architecture],
        "model_type": name,
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.n_layers,
        "num_attention_heads": cfg.n_heads,
        "num_key_value_heads": cfg.n_kv_heads,
        "head_dim": cfg.head_dim,
        "intermediate_size": cfg.d_ff,
        "rope_theta": cfg.rope_theta,
        "rope_scaling": _rope_fields(cfg),
        "rms_norm_eps": cfg.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": cfg.tied,
        "max_position_embeddings": cfg.max_seq_len,
        **biases,
        **(windows if "sliding_window" in family.defaults else {}),
    }


# model_type -> whether it is the one to write a model as; the first that is
WRITTEN_AS: dict[str, Callable[[ModelConfig], bool]] = {
    "qwen3": lambda cfg: cfg.qk_norm,
    "qwen2": lambda cfg: cfg.qkv_bias and not cfg.o_bias,
    "mistral": lambda cfg: cfg.window is not None,
    "llama": lambda cfg: True,
}
