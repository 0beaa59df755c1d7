"""The Llama family (arXiv 2302.13971, 2307.09288) and relatives, as functions of parameters.

RMSNorm, rotary positions, grouped-query attention, SwiGLU. Relatives add biases (Qwen2), norms of
q and k (Qwen3) or a sliding window (Mistral 0.1). A model is a function of two trees, parameters
and adapters; each phase runs under a `jax.named_scope`, so that a profile reads like this file.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.nn import initializers
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from lfl_jax.adapters.adapter_tree import as_adapter, member_count
from lfl_jax.adapters.build import require_bound
from lfl_jax.adapters.compose import check_ids
from lfl_jax.adapters.project import project
from lfl_jax.adapters.routing import as_routing, is_ids
from lfl_jax.adapters.site import AdapterContext, Site
from lfl_jax.core.sharding import Rules, constrain
from lfl_jax.core.spec import ArraySpec
from lfl_jax.core.types import AdapterTree, DType, Key, Params, Routing
from lfl_jax.kernels.attention import attention
from lfl_jax.kernels.linear_cross_entropy.reference import unembed
from lfl_jax.models.cache import Cache, LayerCache
from lfl_jax.models.config import ModelConfig
from lfl_jax.models.layers import Block, Hidden, Layer, run_layers
from lfl_jax.models.mask import AttentionMask, attention_mask
from lfl_jax.models.rotary import Rotation, rotate, rotation

INIT_STD = 0.02
# The logical axes of a layer's weights.
AXES = {
    "q": ("embed", "heads"),
    "k": ("embed", "kv_heads"),
    "v": ("embed", "kv_heads"),
    "o": ("heads", "embed"),
    "gate": ("embed", "mlp"),
    "up": ("embed", "mlp"),
    "down": ("mlp", "embed"),
}
# The groups of a layer's biases, which some families have, and the weights they belong to.
BIASES = {"qkv_bias": ("q", "k", "v"), "o_bias": ("o",), "mlp_bias": ("gate", "up", "down")}

# "selective" saves what the wide products of a block computed, by the names that they are given
# (`checkpoint_name`), and recomputes the cheap operations between them. "full" recomputes all.
SAVED = ("qkv", "attention", "mlp", "shrink", "base", "norm")
REMAT = {
    "selective": jax.checkpoint_policies.save_only_these_names(*SAVED),
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class LayerContext:
    """What all layers of a forward pass share beside their weights."""

    cfg: ModelConfig
    rotation: Rotation
    attention_mask: AttentionMask
    adapters: AdapterContext

    @property
    def rules(self) -> Rules | None:
        """The mesh that all arrays lie on."""
        return self.adapters.rules


def specs(cfg: ModelConfig, dtype: DType = jnp.float32) -> Params:
    """Specs of all parameters; weights are (in, out), layers are stacked on a leading axis."""
    layers, d = cfg.n_layers, cfg.d_model
    q, kv = cfg.n_heads * cfg.head_dim, cfg.n_kv_heads * cfg.head_dim
    normal = initializers.normal(INIT_STD)

    def weights(**sizes: tuple[int, int]) -> dict[str, ArraySpec]:
        return {
            n: ArraySpec((layers, *size), ("layers", *AXES[n]), normal, dtype)
            for n, size in sizes.items()
        }

    def norm(*stack: int, width: int = d, axis: str = "embed") -> ArraySpec:
        return ArraySpec(
            (*stack, width), (*("layers" for _ in stack), axis), initializers.ones, dtype
        )

    def bias(name: str) -> ArraySpec:
        weight = (matrices["attn"] | matrices["mlp"])[name]
        return ArraySpec(
            (layers, weight.shape[-1]), ("layers", AXES[name][-1]), initializers.zeros, dtype
        )

    # weights of several sizes, one declaration each; biases and axes follow from these
    matrices = {
        "attn": weights(q=(d, q), k=(d, kv), v=(d, kv), o=(q, d)),
        "mlp": weights(gate=(d, cfg.d_ff), up=(d, cfg.d_ff), down=(cfg.d_ff, d)),
    }
    tree = {
        "embed": ArraySpec((cfg.vocab_size, d), ("vocab", "embed"), normal, dtype),
        "layers": {
            "attn_norm": norm(layers),
            "attn": matrices["attn"],
            "mlp_norm": norm(layers),
            "mlp": matrices["mlp"],
        },
        "final_norm": norm(),
    }
    for group, names in BIASES.items():
        if getattr(cfg, group):
            tree["layers"][group] = {name: bias(name) for name in names}
    if cfg.qk_norm:
        tree["layers"]["qk_norm"] = {
            name: norm(layers, width=cfg.head_dim, axis="activation") for name in ("q", "k")
        }
    if not cfg.tied:
        tree["head"] = ArraySpec((cfg.vocab_size, d), ("vocab", "embed"), normal, dtype)
    return tree


def head(params: Params) -> Float[Array, "V D"]:
    """The output projection, an output unit a row: its own weight, or the embedding when tied."""
    return params["head"] if "head" in params else params["embed"]


def forward(
    params: Params,
    adapter: AdapterTree | None,
    tokens: Int[Array, "B T"],
    cfg: ModelConfig,
    *,
    positions: Int[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    branch_ids: Int[Array, "B T"] | None = None,
    routing: ArrayLike | None = None,
    cache: Cache | None = None,
    key: Key | None = None,
    rules: Rules | None = None,
) -> tuple[Hidden, Cache | None]:
    """Hidden states after the final norm, and the cache with these tokens appended.

    segment_ids: a token attends to earlier tokens of its own segment only (0 marks padding).
    branch_ids: inside a segment, branch 0 is seen by all, branch b > 0 by itself. routing (B, M)
    or (B, T, M): factors on the M adapters of a mix; or integers (B,) or (B, T): the one adapter to
    use, -1 being the base. key: turns on dropout (training). UserError for an adapter or a routing
    that does not fit.
    """
    b, t = tokens.shape
    adapter = as_adapter("forward", adapter)
    routing = as_routing(routing, (b, t), member_count(adapter))
    if not isinstance(tokens, jax.core.Tracer):
        _require_fitting_values(params, adapter, routing)
    positions = jnp.broadcast_to(jnp.arange(t), (b, t)) if positions is None else positions
    segment_ids = jnp.ones((b, t), jnp.int32) if segment_ids is None else segment_ids

    cache = None if cache is None else cache.with_segments(segment_ids)
    mask = attention_mask(
        segment_ids, positions, branch_ids=branch_ids, cache=cache, window=cfg.window
    )
    in_adapters = AdapterContext(
        routing, dropout=cfg.adapter_dropout, shared=adapter.get("shared"), rules=rules
    )
    context = LayerContext(cfg, rotation(positions, cfg), mask, in_adapters)

    x, cache = run_layers(
        rematerialised(partial(block, context=context), cfg),
        _embed(params, tokens, cfg, rules),
        params["layers"],
        both_parts(adapter["layers"]),
        n_layers=cfg.n_layers,
        key=key,
        cache=cache,
    )
    with jax.named_scope("final_norm"):
        return rms_norm(x, params["final_norm"], cfg.norm_eps), cache


def _require_fitting_values(params: Params, adapter: AdapterTree, routing: Routing | None) -> None:
    """UserError for ids of adapters there are not, and for an adapter of other weights.

    Only outside of compiled programs, where values can be looked at.
    """
    if is_ids(routing):
        check_ids("routing", routing, member_count(adapter))
    # unstacked ones come from `adapters.precompute_for_inference`, which has checked
    if isinstance(params["layers"], dict):
        require_bound("forward", adapter, params)


def both_parts(adapter: AdapterTree | tuple[AdapterTree, ...]) -> AdapterTree | tuple:
    """The adapter's layers, with an empty part where it adapts no attention or no mlp."""
    return {"attn": {}, "mlp": {}} | adapter if isinstance(adapter, dict) else adapter


def rematerialised(block: Block, cfg: ModelConfig) -> Block:
    """The block, of which the backward pass recomputes what cfg.remat does not save."""
    if cfg.remat == "none":
        return block
    # prevent_cse keeps the compiler from merging the recomputation with the forward pass. Inside a
    # scan it cannot, and barriers would only keep it from fusing.
    return jax.checkpoint(block, policy=REMAT[cfg.remat], prevent_cse=False)


def logits(params: Params, hidden: Float[Array, "*N D"]) -> Float[Array, "*N V"]:
    """Next-token logits in float32."""
    return unembed(hidden, head(params))


def rms_norm(x: Float[Array, "*N D"], w: Float[Array, " D"], eps: float) -> Float[Array, "*N D"]:
    """x / rms(x) · w, in float32 inside (arXiv 1910.07467)."""
    # in bfloat16 the mean of squares would have 8 bits
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return (y * w.astype(jnp.float32)).astype(x.dtype)


def _embed(
    params: Params, tokens: Int[Array, "B T"], cfg: ModelConfig, rules: Rules | None
) -> Hidden:
    with jax.named_scope("embed"):
        # The width is gathered over fsdp; the vocabulary stays split over the tensor axis.
        table = constrain(params["embed"], ("vocab", "activation"), rules)
        x = table[tokens].astype(cfg.compute_dtype)
        return constrain(x, ("batch", "time", "activation"), rules)


class _DropoutKeys(NamedTuple):
    """A layer's keys: of the adapters at each group of weights, and of attention's weights."""

    qkv: Key | None = None
    o: Key | None = None
    gate_up: Key | None = None
    down: Key | None = None
    attention: Key | None = None


def block(x: Hidden, layer: Layer, *, context: LayerContext) -> tuple[Hidden, LayerCache | None]:
    """x + attention(norm(x)), then x + mlp(norm(x)); and the layer's cache with these tokens."""
    keys = _DropoutKeys(*(() if layer.key is None else jax.random.split(layer.key, 5)))
    eps = context.cfg.norm_eps
    with jax.named_scope("attention"):
        h = rms_norm(x, layer.weights["attn_norm"], eps)
        h, cache = _attention(h, layer, context, keys)
        x = x + h
    with jax.named_scope("mlp"):
        h = rms_norm(x, layer.weights["mlp_norm"], eps)
        x = x + _mlp(h, layer, context, keys)
    return x, cache


def _attention(
    h: Hidden, layer: Layer, context: LayerContext, keys: _DropoutKeys
) -> tuple[Hidden, LayerCache | None]:
    """Grouped-query attention over these tokens and, with a cache, those before them."""
    cfg, mask = context.cfg, context.attention_mask
    q, k, v = _heads(_linear(h, layer, "attn", ("q", "k", "v"), context, keys.qkv), layer, cfg)
    q, k = rotate(q, context.rotation), rotate(k, context.rotation)

    # Keys are rotated before they are stored: each keeps the position it was computed at.
    cache = None if layer.cache is None else layer.cache.append(k, v)
    if cache is not None:
        k, v = cache.keys_and_values()

    q, k, v = (checkpoint_name(x, "qkv") for x in (q, k, v))
    h = attention(
        q, k, v, mask.mask, segment_ids=mask.segment_ids,
        dropout=cfg.attention_dropout, key=keys.attention, rules=context.rules,
    )  # fmt: skip
    # heads side by side, split over the tensor axis as the rows of W_o are
    h = constrain(h.reshape(*h.shape[:2], -1), ("batch", "time", "heads"), context.rules)
    (h,) = _linear(h, layer, "attn", ("o",), context, keys.o)
    return constrain(h, ("batch", "time", "activation"), context.rules), cache


def _mlp(h: Hidden, layer: Layer, context: LayerContext, keys: _DropoutKeys) -> Hidden:
    """SwiGLU (arXiv 2002.05202): (silu(h W_gate) * (h W_up)) W_down."""
    # one call: both read h, so that their adapters' A are one product with it
    projections = _linear(h, layer, "mlp", ("gate", "up"), context, keys.gate_up)
    gate, up = (checkpoint_name(y, "mlp") for y in projections)
    h = constrain(jax.nn.silu(gate) * up, ("batch", "time", "mlp"), context.rules)
    (h,) = _linear(h, layer, "mlp", ("down",), context, keys.down)
    return constrain(h, ("batch", "time", "activation"), context.rules)


def _linear(
    h: Float[Array, "B T I"],
    layer: Layer,
    part: str,
    names: tuple[str, ...],
    context: LayerContext,
    key: Key | None,
) -> tuple[Float[Array, "B T _"], ...]:
    """h W + adapters + bias for weights of a part ("attn" or "mlp") that share their input."""
    weights, adapter = layer.weights[part], layer.adapter[part]
    sites = tuple(Site(weights[name], adapter.get(name), AXES[name]) for name in names)
    ys = project(h, sites, dataclasses.replace(context.adapters, key=key))

    # families without biases have none of the groups
    groups = (layer.weights.get(group, {}) for group in BIASES)
    biases = {name: bias for group in groups for name, bias in group.items()}
    return tuple(
        y + biases[name].astype(y.dtype) if name in biases else y
        for name, y in zip(names, ys, strict=True)
    )


def _heads(
    qkv: tuple[Float[Array, "B T _"], ...], layer: Layer, cfg: ModelConfig
) -> tuple[Float[Array, "B T _ P"], ...]:
    """q, k and v (B, T, heads · P) as (B, T, heads, P), q and k normalised if the family does."""
    q, k, v = (x.reshape(*x.shape[:2], -1, cfg.head_dim) for x in qkv)
    if cfg.qk_norm:
        norms = layer.weights["qk_norm"]
        q, k = rms_norm(q, norms["q"], cfg.norm_eps), rms_norm(k, norms["k"], cfg.norm_eps)
    return q, k, v
