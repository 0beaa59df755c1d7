"""Grouped-query attention under an explicit mask, by the implementation of the platform."""

import logging
from collections.abc import Callable

from jaxtyping import Array, Bool, Float, Int

from lfl_jax.core.sharding import Rules, platform
from lfl_jax.core.types import Key
from lfl_jax.kernels.attention.blocked import blocked
from lfl_jax.kernels.attention.cudnn import cudnn
from lfl_jax.kernels.attention.cudnn import limitation as cudnn_limitation
from lfl_jax.kernels.attention.reference import reference
from lfl_jax.kernels.attention.shards import per_shard
from lfl_jax.kernels.attention.splash import splash

log = logging.getLogger(__name__)

# Kernels that make their own mask, causal within segments: (q, k, v, segment_ids) -> out.
KERNELS: dict[str, Callable] = {"cudnn": cudnn, "splash": splash}
# platform -> the kernel that is faster there than what XLA makes of `blocked`.
PREFERRED = {"gpu": "cudnn", "tpu": "splash"}
# Why a kernel cannot compute (q, k), in words, or None.
LIMITATIONS: dict[str, Callable[[Array, Array], str | None]] = {
    "cudnn": cudnn_limitation,
    "splash": lambda q, k: None,
}
# The forms under any causal mask: (q, k, v, mask) -> out. The partitioner can split them.
FORMS: dict[str, Callable] = {"blocked": blocked, "reference": reference}


def attention(
    q: Float[Array, "B T H P"],
    k: Float[Array, "B S K P"],
    v: Float[Array, "B S K P"],
    mask: Bool[Array, "B T S"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    dropout: float = 0.0,
    key: Key | None = None,
    rules: Rules | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T H P"]:
    """softmax(q k^T / sqrt(P)) v.

    Without a cache (T = S) the mask must be causal: keys after a query are not computed.
    segment_ids: given where the mask says no more than "earlier, and of the same segment"; a kernel
    that makes its own mask can then be used. Such a kernel works on every shard of the rules' mesh
    by itself. implementation: a name of KERNELS or FORMS in place of the platform's choice.
    Attention dropout and cached keys take the plain form.
    """
    if q.shape[1] != k.shape[1] or (key is not None and dropout > 0.0):
        return reference(q, k, v, mask, dropout=dropout, key=key)
    name = implementation or choose(platform(rules), q, k, segment_ids)
    if name in KERNELS:
        return per_shard(KERNELS[name], q, k, v, segment_ids, rules)
    return FORMS[name](q, k, v, mask)


def choose(
    platform: str,
    q: Float[Array, "B T H P"],
    k: Float[Array, "B S K P"],
    segment_ids: Int[Array, "B T"] | None,
) -> str:
    """The implementation for a platform; a kernel that cannot be used is logged with the reason."""
    name = PREFERRED.get(platform)
    if name is None:
        return "blocked"
    not_segments = "the mask is not one of segments"
    limitation = not_segments if segment_ids is None else LIMITATIONS[name](q, k)
    if limitation is None:
        return name
    log.info("attention: blocked in place of %s: %s", name, limitation)
    return "blocked"
