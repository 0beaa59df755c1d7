"""Grouped-query attention under an explicit mask: one function, several implementations, chosen by
platform."""

import logging
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Bool, Float, Int

from lfl_jax.core.sharding import Rules, platform
from lfl_jax.kernels.attention.blocked import blocked
from lfl_jax.kernels.attention.cudnn import cudnn
from lfl_jax.kernels.attention.cudnn import problem as cudnn_problem
from lfl_jax.kernels.attention.reference import reference
from lfl_jax.kernels.attention.shards import per_shard
from lfl_jax.kernels.attention.splash import splash

log = logging.getLogger(__name__)

# Kernels that make their own mask, causal within segments: (q, k, v, segment_ids) -> out.
KERNELS: dict[str, Callable] = {"cudnn": cudnn, "splash": splash}
# platform -> the kernel that is faster there than what XLA makes of `blocked`.
PREFERRED = {"gpu": "cudnn", "tpu": "splash"}
# What a kernel cannot do, in words, or None: (q, k).
PROBLEMS: dict[str, Callable[[Any, Any], str | None]] = {
    "cudnn": cudnn_problem,
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
    key: Any = None,
    rules: Rules | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T H P"]:
    """softmax(q k^T / sqrt(P)) v. Without a cache (T = S) the mask must be causal: keys after a
    query are not computed.

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


def choose(platform: str, q: Any, k: Any, segment_ids: Any) -> str:
    """The implementation for a platform; a kernel that cannot be used is logged with the reason."""
    name = PREFERRED.get(platform)
    if name is None:
        return "blocked"
    problem = "the mask is not one of segments" if segment_ids is None else PROBLEMS[name](q, k)
    if problem is None:
        return name
    log.info("attention: blocked in place of %s: %s", name, problem)
    return "blocked"
