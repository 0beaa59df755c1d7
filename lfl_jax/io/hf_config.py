"""config.json of Hugging Face models and our model config: what each field means, and the fields
that mean a config."""

import dataclasses
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lfl_jax.core.files import read_json_object
from lfl_jax.errors import UserError
from lfl_jax.models.config import ModelConfig
from lfl_jax.models.rope import FactorsRope, LinearRope, Llama3Rope, RopeScaling, YarnRope


@dataclasses.dataclass(frozen=True)
class Family:
    """A model_type of transformers.

    adds: what its forward pass always adds to Llama's. may_add: fields of config.json that add
    biases. defaults: what its config class fills in where a file is silent, as far as it differs
    from Llama's.
    """

    architecture: str
    adds: dict[str, bool] = dataclasses.field(default_factory=dict)
    may_add: tuple[str, ...] = ()
    defaults: dict[str, int] = dataclasses.field(default_factory=dict)


# What the config classes of transformers fill in; files written by them leave these fields out.
_QWEN = {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_MISTRAL = {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}
FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", may_add=("attention_bias", "mlp_bias")),
    "mistral": Family("MistralForCausalLM", defaults=_MISTRAL),
    "qwen2": Family("Qwen2ForCausalLM", {"qkv_bias": True}, defaults=_QWEN),
    "qwen3": Family(
        "Qwen3ForCausalLM", {"qk_norm": True}, ("attention_bias",), _QWEN | {"head_dim": 128}
    ),
}
# field -> ModelConfig's; Llama's attention_bias is on all four projections, Qwen2's on three.
BIAS_FIELDS = {"attention_bias": ("qkv_bias", "o_bias"), "mlp_bias": ("mlp_bias",)}
# Fields that change the forward pass into one we do not have, and the values that do not.
PLAIN: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "quantization_config": (None,),
    "partial_rotary_factor": (1.0, None),
    "num_local_experts": (None,),
}


def read_fields(folder: Path) -> dict[str, Any]:
    """The fields of config.json; UserError when it is missing or malformed."""
    return read_json_object(
        folder / "config.json", "a Hugging Face model is a folder with config.json"
    )


def model_config(file: Path, fields: dict[str, Any]) -> ModelConfig:
    """The shape that these fields describe.

    UserError for a field that is missing, malformed, or not supported.
    """
    name = fields.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(f"{file}: model_type {name!r}; supported are {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    fields = family.defaults | fields
    _require_plain(file, fields, family)
    size, number = partial(_size, file, fields), partial(_number, file, fields)
    d_model, n_heads = size("hidden_size"), size("num_attention_heads")
    rope = _rope(file, fields)
    theta = _number(file, rope, "rope_theta", number("rope_theta", 10000.0))

    # The defaults here are those of Llama's config class; a family's own are in `fields` already.
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
        tied=_flag(file, fields, "tie_word_embeddings"),
        max_seq_len=size("max_position_embeddings", 2048),
        window=_window(file, name, fields),
        **_biases(file, fields, family) | family.adds,
    )
    if cfg.head_dim % 2 or cfg.n_heads % cfg.n_kv_heads:
        raise UserError(
            f"{file}: {n_heads} heads of {cfg.head_dim} dimensions over {cfg.n_kv_heads} key-value"
            " heads; expected an even size, and whole groups"
        )
    return cfg


def _biases(file: Path, fields: dict[str, Any], family: Family) -> dict[str, bool]:
    """{flag of ModelConfig: is set} of the biases that this family may have."""
    flags: dict[str, bool] = {}
    for field in family.may_add:
        flags |= dict.fromkeys(BIAS_FIELDS[field], _flag(file, fields, field))
    return flags


def _require_plain(file: Path, fields: dict[str, Any], family: Family) -> None:
    """UserError for a field that asks for a forward pass which we do not have."""
    # A bias that we have no parameter for would be left out silently.
    plain = PLAIN | {field: (False, None) for field in BIAS_FIELDS if field not in family.may_add}
    for field, values in plain.items():
        if field in fields and fields[field] not in values:
            raise UserError(
                f"{file}: {field}={fields[field]!r} is not supported, only {values[0]!r}"
            )


def _window(file: Path, family: str, fields: dict[str, Any]) -> int | None:
    """The sliding window of all layers; UserError where only some layers have one."""
    size = partial(_size, file, fields)
    window = None if fields.get("sliding_window") is None else size("sliding_window")
    types = fields.get("layer_types")
    if not isinstance(types, list | None) or not all(isinstance(x, str) for x in types or ()):
        raise UserError(f"{file}: layer_types is {types!r:.40}; expected a list of names")
    # Qwen's files have a window even where it is off; Llama has none, whatever a file says.
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
    # JSON's true is an int to isinstance.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 1 << 31:
        raise UserError(f"{file}: {name} is {value!r}; expected a positive integer")
    return value


def _flag(file: Path, fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    # A text such as "false" would count as true.
    if not isinstance(value, bool | None):
        raise UserError(f"{file}: {name} is {value!r}; expected true or false")
    return bool(value)


def _number(file: Path, fields: dict[str, Any], name: str, default: float) -> float:
    value = default if fields.get(name) is None else fields[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # JSON's integers have no limit, and Python's floats have one.
    if not is_number or not 0 < value <= sys.float_info.max:
        raise UserError(f"{file}: {name} is {value!r:.40}; expected a positive number")
    return float(value)


def _rope(file: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters` of newer files, or `rope_scaling` of older ones.

    Older files have rope_theta among the other fields.
    """
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise UserError(f"{file}: rope_parameters is {rope!r}; expected an object")
    return rope


def _scaling(
    file: Path, rope: dict[str, Any], fields: dict[str, Any], theta: float
) -> RopeScaling | None:
    """The scaling of rotary frequencies; UserError with the reason for kinds we lack."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    # Newer files have it here, older ones among the other fields (`PLAIN`).
    if rope.get("partial_rotary_factor") not in PLAIN["partial_rotary_factor"]:
        raise UserError(
            f"{file}: partial_rotary_factor={rope['partial_rotary_factor']!r} is not supported,"
            " only 1.0"
        )
    if kind == "default":
        return None
    if kind == "dynamic":
        raise UserError(
            f"{file}: rotary positions of type 'dynamic' depend on the length of the whole row,"
            " which packed documents do not share; supported are " + ", ".join(map(repr, ROPES))
        )
    if not isinstance(kind, str) or kind not in ROPES:
        raise UserError(
            f"{file}: rotary positions of type {kind!r}; supported are"
            f" {', '.join(map(repr, ROPES))}"
        )
    # Older files have the trained length only as max_position_embeddings.
    length = _size(file, fields, "max_position_embeddings", 2048)
    original = _size(file, rope | fields, "original_max_position_embeddings", length)
    # YaRN divides by log(theta).
    if theta <= 1.0:
        raise UserError(f"{file}: rope_theta is {theta:g}; expected more than 1")
    return ROPES[kind](file, rope | {"original_max_position_embeddings": original}, length)


def _linear(file: Path, rope: dict[str, Any], length: int) -> RopeScaling:
    return LinearRope(_number(file, rope, "factor", 1.0))


def _llama3(file: Path, rope: dict[str, Any], length: int) -> RopeScaling:
    low = _number(file, rope, "low_freq_factor", 1.0)
    high = _number(file, rope, "high_freq_factor", 4.0)
    if low >= high:
        raise UserError(f"{file}: low_freq_factor {low:g} must be below high_freq_factor {high:g}")
    return Llama3Rope(
        _number(file, rope, "factor", 1.0), low, high, rope["original_max_position_embeddings"]
    )


def _yarn(file: Path, rope: dict[str, Any], length: int) -> RopeScaling:
    """As transformers 5.24 computes it: `_compute_yarn_parameters`."""
    original = rope["original_max_position_embeddings"]
    factor = _number(file, rope, "factor", length / original)

    # Peng et al. (2023), arXiv 2309.00071: logits grow by 0.1 ln(factor) + 1, squared.
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
        raise UserError(
            f"{file}: rotary positions of type 'longrope' are supported with one list of factors"
            " only"
        )
    # `_number` reads from a mapping, so the list becomes one.
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
            return {
                "rope_type": "llama3",
                "factor": factor,
                "original_max_position_embeddings": original,
            } | ends
        case YarnRope(factor, original, attention, fast, slow, truncate):
            ends = {
                "beta_fast": fast,
                "beta_slow": slow,
                "truncate": truncate,
                "attention_factor": attention,
            }
            return {
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original,
            } | ends
        case FactorsRope(factors):
            # The same list twice: transformers switches lists at the original length.
            lists = {
                "short_factor": list(factors),
                "long_factor": list(factors),
                "attention_factor": 1.0,
            }
            whole = {"factor": 1.0, "original_max_position_embeddings": cfg.max_seq_len}
            return {"rope_type": "longrope"} | whole | lists


def config_fields(cfg: ModelConfig) -> dict[str, Any]:
    """config.json of this shape, as older and newer versions of transformers read it."""
    name = next(name for name, needed in WRITTEN_AS.items() if needed(cfg))
    family = FAMILIES[name]
    biases = {field: _has_biases(cfg, field) for field in family.may_add}
    qwen = {
        "use_sliding_window": cfg.window is not None,
        # The window is that of layers from this one on: of all, or of none.
        "max_window_layers": 0 if cfg.window else cfg.n_layers,
    }
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


def _has_biases(cfg: ModelConfig, field: str) -> bool:
    return all(getattr(cfg, ours) for ours in BIAS_FIELDS[field])


# model_type -> whether a model can be written as it; the first that can is taken, so that a model
# is a llama only if no other type describes it.
WRITTEN_AS: dict[str, Callable[[ModelConfig], bool]] = {
    "qwen3": lambda cfg: cfg.qk_norm,
    "qwen2": lambda cfg: cfg.qkv_bias and not cfg.o_bias,
    "mistral": lambda cfg: cfg.window is not None,
    "llama": lambda cfg: True,
}
