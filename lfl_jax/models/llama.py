"""The Llama family (arXiv 2302.13971, 2307.09288): RMSNorm, rotary positions, grouped-query
attention, SwiGLU; and its relatives that add biases (Qwen2), norms of q and k (Qwen3) or a sliding
window (Mistral 0.1).

A function of two trees, parameters and adapters. Stacked layers are scanned; a tuple of layers
(`core.tree.unstack`) is a plain loop, at which decoding is faster: a scan copies every layer's
weights out of the stack for each token.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jax.nn import initializers
from jaxtyping import Array, Bool, Float, Int

from lfl_jax.adapters.build import require_bound
from lfl_jax.adapters.compose import check_ids
from lfl_jax.adapters.project import project
from lfl_jax.adapters.routed import as_routing, is_ids
from lfl_jax.adapters.trees import as_adapter, member_count
from lfl_jax.core.pytree import Node
from lfl_jax.core.sharding import Rules, constrain
from lfl_jax.core.spec import ArraySpec
from lfl_jax.kernels.attention import attention
from lfl_jax.kernels.linear_cross_entropy.reference import unembed
from lfl_jax.models.config import ModelConfig

INIT_STD = 0.02
# What the backward pass finds saved; the rest of a block is recomputed. "selective" keeps what the
# wide products made.
SAVED = ("qkv", "attention", "mlp", "shrink", "base", "norm")
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
SLOTS = (-1, -2)  # the axis of a cache's slots in k and in v
REMAT = {
    "selective": jax.checkpoint_policies.save_only_these_names(*SAVED),
    "full": jax.checkpoint_policies.nothing_saveable,
}


@struct.dataclass
class Cache(Node):
    """Keys and values of past tokens, the segment of each slot (B, S), and the next slot.

    k (B, K, P, S) and v (B, K, S, P), as their products read them: else all of the cache is
    transposed for every token. Like the model's layers, each is stacked (L, ...) or a tuple of L.
    """

    k: Any
    v: Any
    segment_ids: Any
    index: Any


def specs(cfg: ModelConfig, dtype: Any = jnp.float32) -> dict:
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


def head(params: dict) -> Float[Array, "V D"]:
    """The output projection, an output unit a row: its own weight, or the embedding when tied."""
    return params["head"] if "head" in params else params["embed"]


def forward(
    params: dict,
    adapter: dict | None,
    tokens: Int[Array, "B T"],
    cfg: ModelConfig,
    *,
    positions: Int[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    branch_ids: Int[Array, "B T"] | None = None,
    routing: Any = None,
    cache: Cache | None = None,
    key: Any = None,
    rules: Rules | None = None,
) -> tuple[Float[Array, "B T D"], Cache | None]:
    """Hidden states after the final norm, and the cache with these tokens appended.

    segment_ids: a token sees earlier tokens of its own segment only (0 marks padding). branch_ids:
    inside a segment, branch 0 is seen by all, branch b > 0 by itself. routing (B, M) or (B, T, M):
    factors on the members of the adapter; or
    integers (B,) or (B, T): the one member to use, -1 being the base. key: turns on dropout
    (training).
    """
    b, t = tokens.shape
    adapter = as_adapter("forward", adapter)
    routing = as_routing(routing, (b, t), member_count(adapter))
    if not isinstance(tokens, jax.core.Tracer):
        _check_values(params, adapter, routing)
    positions = jnp.broadcast_to(jnp.arange(t), (b, t)) if positions is None else positions
    segment_ids = jnp.ones((b, t), jnp.int32) if segment_ids is None else segment_ids
    windowed = (
        cfg.window is not None and (t if cache is None else cache.segment_ids.shape[1]) > cfg.window
    )
    only_segments = segment_ids if branch_ids is None and cache is None and not windowed else None
    mask, cache = _mask(segment_ids, branch_ids, cache, positions, cfg.window if windowed else None)
    see = (mask, only_segments)
    rope = _rope(positions, cfg)
    x = constrain(params["embed"], ("vocab", "activation"), rules)[tokens].astype(cfg.compute_dtype)
    x = constrain(x, ("batch", "time", "activation"), rules)

    shared = adapter.get("shared")

    def block(
        x: Any, layer: Any, layer_adapter: Any, layer_key: Any, layer_cache: Any
    ) -> tuple[Any, Any]:
        return _block(
            x, layer, layer_adapter, shared, cfg, rope, see, routing, layer_key, layer_cache, rules
        )

    if cfg.remat != "none":
        # a scan's body cannot merge with it
        block = jax.checkpoint(block, policy=REMAT[cfg.remat], prevent_cse=False)
    adapter_layers = adapter["layers"]
    if isinstance(adapter_layers, dict):
        adapter_layers = {"attn": {}, "mlp": {}} | adapter_layers
    if isinstance(params["layers"], tuple):
        x, cache = _loop(block, x, params["layers"], adapter_layers, key, cache, cfg)
    elif cache is None:
        x = _scan(block, x, params["layers"], adapter_layers, key, cfg)
    else:
        x, cache = _scan_cached(block, x, params["layers"], adapter_layers, cache, cfg)
    return rms_norm(x, params["final_norm"], cfg.norm_eps), cache


def _check_values(params: dict, adapter: dict, routing: Any) -> None:
    """UserError for ids of members there are not, and for an adapter that was trained over other
    weights."""
    if is_ids(routing):
        check_ids("routing", routing, member_count(adapter))
    # unstacked ones come from `adapters.precompute_for_inference`, which has looked
    if isinstance(params["layers"], dict):
        require_bound("forward", adapter, params)


def logits(params: dict, hidden: Float[Array, "*N D"]) -> Float[Array, "*N V"]:
    """Next-token logits in float32."""
    return unembed(hidden, head(params))


def empty_cache(params: dict, cfg: ModelConfig, batch: int, size: int) -> Cache:
    """A cache of `size` slots for `batch` rows, in the form that these parameters want."""

    def blank(*shape: int) -> Any:
        shape = (batch, cfg.n_kv_heads, *shape)
        if isinstance(params["layers"], tuple):
            return tuple(jnp.zeros(shape, cfg.compute_dtype) for _ in range(cfg.n_layers))
        return jnp.zeros((cfg.n_layers, *shape), cfg.compute_dtype)

    k, v = blank(cfg.head_dim, size), blank(size, cfg.head_dim)
    return Cache(k, v, jnp.full((batch, size), -1, jnp.int32), jnp.int32(0))


def repeat(cache: Cache, rows: int) -> Cache:
    """The cache of one row for `rows` rows."""
    k, v = jax.tree.map(lambda x: jnp.repeat(x, rows, axis=-4), (cache.k, cache.v))
    return cache.replace(k=k, v=v, segment_ids=jnp.repeat(cache.segment_ids, rows, axis=0))


def take(cache: Cache, rows: Int[Array, " N"]) -> Cache:
    """The cache of these rows."""
    k, v = jax.tree.map(lambda x: jnp.take(x, rows, axis=-4), (cache.k, cache.v))
    return cache.replace(k=k, v=v, segment_ids=cache.segment_ids[rows])


def rms_norm(x: Float[Array, "*N D"], w: Float[Array, " D"], eps: float) -> Float[Array, "*N D"]:
    """x / rms(x) · w, in float32 inside (arXiv 1910.07467)."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return (y * w.astype(jnp.float32)).astype(x.dtype)


def _scan(block: Any, x: Any, layers: Any, adapter_layers: Any, key: Any, cfg: ModelConfig) -> Any:
    def body(x: Any, xs: Any) -> tuple[Any, None]:
        layer, layer_adapter, index = xs
        return block(
            x, layer, layer_adapter, None if key is None else jax.random.fold_in(key, index), None
        )[0], None

    return jax.lax.scan(body, x, (layers, adapter_layers, jnp.arange(cfg.n_layers)))[0]


def _scan_cached(
    block: Any, x: Any, layers: Any, adapter_layers: Any, cache: Cache, cfg: ModelConfig
) -> Any:
    """The stacked cache is carried and written in place: a second one would cost as much as the
    first."""

    def body(carry: Any, xs: Any) -> tuple[Any, None]:
        x, *kv = carry
        layer, layer_adapter, i = xs
        past = [jax.lax.dynamic_index_in_dim(stack, i, keepdims=False) for stack in kv]
        x, after = block(x, layer, layer_adapter, None, (*past, cache.index))
        return (x, *(write(*each, i) for each in zip(kv, after, SLOTS, strict=True))), None

    def write(stack: Any, whole: Any, axis: int, i: Any) -> Any:
        """The stack with what layer i has of the new tokens."""
        added, at = (
            jax.lax.dynamic_slice_in_dim(whole, cache.index, x.shape[1], axis),
            [i, 0, 0, 0, 0],
        )
        at[axis] = cache.index
        return jax.lax.dynamic_update_slice(stack, added[None], at)

    (x, k, v), _ = jax.lax.scan(
        body, (x, cache.k, cache.v), (layers, adapter_layers, jnp.arange(cfg.n_layers))
    )
    return x, cache.replace(k=k, v=v, index=cache.index + x.shape[1])


def _loop(
    block: Any, x: Any, layers: tuple, adapter_layers: Any, key: Any, cache: Any, cfg: ModelConfig
) -> Any:
    kvs = []
    for i, layer in enumerate(layers):
        layer_adapter = adapter_layers[i] if isinstance(adapter_layers, tuple) else adapter_layers
        layer_cache = None if cache is None else (cache.k[i], cache.v[i], cache.index)
        x, kv = block(
            x,
            layer,
            layer_adapter,
            None if key is None else jax.random.fold_in(key, i),
            layer_cache,
        )
        kvs.append(kv)
    if cache is None:
        return x, None
    k, v = zip(*kvs, strict=True)
    return x, cache.replace(k=k, v=v, index=cache.index + x.shape[1])


def _block(
    x: Any,
    layer: Any,
    adapter: Any,
    shared: Any,
    cfg: ModelConfig,
    rope: Any,
    see: Any,
    routing: Any,
    key: Any,
    cache: Any,
    rules: Rules | None,
) -> tuple[Any, Any]:
    """One decoder block: x + attention(norm(x)), then x + mlp(norm(x)). And its cache with these
    tokens.

    see: the mask (B, T, S), and the segment ids if they say the same.
    """
    keys = (None,) * 5 if key is None else tuple(jax.random.split(key, 5))
    b, t, _ = x.shape
    biases = {name: bias for group in BIASES for name, bias in layer.get(group, {}).items()}

    def linear(x: Any, part: str, names: tuple[str, ...], key: Any) -> Any:
        layers = tuple(adapter[part].get(name) for name in names)
        ws = tuple(layer[part][name] for name in names)
        mesh = {"rules": rules, "axes": tuple(AXES[name] for name in names)}
        ys = project(
            x,
            ws,
            layers,
            routing=routing,
            key=key,
            dropout=cfg.adapter_dropout,
            shared=shared,
            **mesh,
        )
        return tuple(
            y + biases[n].astype(y.dtype) if n in biases else y
            for y, n in zip(ys, names, strict=True)
        )

    h = rms_norm(x, layer["attn_norm"], cfg.norm_eps)
    q, k, v = _heads(linear(h, "attn", ("q", "k", "v"), keys[0]), layer, cfg)
    q, k = rotate(q, rope), rotate(k, rope)
    kv = None
    if cache is not None:
        *old, start = cache
        new = (k.transpose(0, 2, 3, 1), v.swapaxes(1, 2))
        kv = [
            jax.lax.dynamic_update_slice_in_dim(o, n, start, axis)
            for o, n, axis in zip(old, new, SLOTS, strict=True)
        ]
        k, v = kv[0].transpose(0, 3, 1, 2), kv[1].swapaxes(1, 2)
    q, k, v = (checkpoint_name(x, "qkv") for x in (q, k, v))
    options = {"dropout": cfg.attention_dropout, "key": keys[4], "rules": rules}
    h = attention(q, k, v, see[0], segment_ids=see[1], **options)
    h = constrain(h.reshape(b, t, -1), ("batch", "time", "heads"), rules)
    x = x + constrain(linear(h, "attn", ("o",), keys[1])[0], ("batch", "time", "activation"), rules)
    h = rms_norm(x, layer["mlp_norm"], cfg.norm_eps)
    gated, up = (checkpoint_name(y, "mlp") for y in linear(h, "mlp", ("gate", "up"), keys[2]))
    h = constrain(jax.nn.silu(gated) * up, ("batch", "time", "mlp"), rules)
    x = x + constrain(
        linear(h, "mlp", ("down",), keys[3])[0], ("batch", "time", "activation"), rules
    )
    return x, kv


def _heads(qkv: tuple[Any, ...], layer: Any, cfg: ModelConfig) -> Any:
    """Projections (B, T, heads · P) as heads (B, T, heads, P), with the norms that some families
    add."""
    q, k, v = (x.reshape(*x.shape[:2], -1, cfg.head_dim) for x in qkv)
    if cfg.qk_norm:
        q, k = (
            rms_norm(x, layer["qk_norm"][name], cfg.norm_eps) for x, name in ((q, "q"), (k, "k"))
        )
    return q, k, v


def rotate(x: Float[Array, "B T H P"], rope: tuple[Any, Any]) -> Float[Array, "B T H P"]:
    """Rotary embedding in the half-split layout: pairs are (j, j + P/2)."""
    cos, sin = rope
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _rope(positions: Int[Array, "B T"], cfg: ModelConfig) -> tuple[Any, Any]:
    """cos and sin (B, T, 1, P/2), computed once for all layers."""
    frequency = cfg.rope_theta ** (
        -jnp.arange(0, cfg.head_dim, 2, dtype=jnp.float32) / cfg.head_dim
    )
    if cfg.rope_scaling is not None:
        frequency = cfg.rope_scaling.scale(frequency, cfg.rope_theta)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if cfg.rope_scaling is not None and cfg.rope_scaling.attention_factor != 1.0:
        cos, sin = cos * cfg.rope_scaling.attention_factor, sin * cfg.rope_scaling.attention_factor
    return cos.astype(cfg.compute_dtype), sin.astype(cfg.compute_dtype)


def _mask(
    segment_ids: Any, branch_ids: Any, cache: Cache | None, positions: Any, window: int | None
) -> tuple[Bool[Array, "B T S"], Cache | None]:
    """Which slot each token may see; with a cache, also the cache with these tokens' segments
    written."""
    t = segment_ids.shape[1]
    if cache is None:
        key_segments, start = segment_ids, 0
    else:
        start = cache.index
        key_segments = jax.lax.dynamic_update_slice(cache.segment_ids, segment_ids, (0, start))
        cache = cache.replace(segment_ids=key_segments)
    causal = (start + jnp.arange(t))[:, None] >= jnp.arange(key_segments.shape[1])[None, :]
    mask = causal[None] & (segment_ids[:, :, None] == key_segments[:, None, :])
    if window is not None:
        # Slots are not positions: prompts are padded on the left, and a row may hold several
        # documents or branches.
        key_positions = positions if cache is None else jnp.cumsum(key_segments > 0, axis=1) - 1
        mask = mask & (positions[:, :, None] - key_positions[:, None, :] < window)
    if branch_ids is not None:
        own, others = branch_ids[:, :, None], branch_ids[:, None, :]
        mask = mask & ((others == 0) | (others == own))
    return mask, cache
