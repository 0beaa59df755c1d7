"""y = x W + dy for weights that share their input: q, k and v, or gate and up.

How a weight's change is computed is planned first: `Routed`, `Fused` or `Plain`. The x A of all
plain plans is then one product, because skinny products run far below peak.
"""

import itertools
from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import jax
from jaxtyping import Array, Float

from lfl_jax.adapters import fused, routed
from lfl_jax.adapters.kind import only_low_rank
from lfl_jax.adapters.mix import count, members
from lfl_jax.adapters.plain import Plain
from lfl_jax.adapters.routing import require_columns
from lfl_jax.adapters.site import NO_CONTEXT, AdapterContext, Site
from lfl_jax.kernels.linear import linear
from lfl_jax.kernels.low_rank.reference import shrink

Hidden: TypeAlias = tuple[Float[Array, "B T _"], ...]


@runtime_checkable
class Plan(Protocol):
    """How one weight's y = x W + dy is computed."""

    @property
    def shrinks(self) -> tuple[Float[Array, "I _"], ...]:
        """The A of every x A that the plan takes from the group's shared product."""

    def output(self, adapter_input: Float[Array, "B T I"], hidden: Hidden) -> Float[Array, "B T O"]:
        """y, given `adapter_input`, x after dropout, and `hidden`, its product with each shrink."""


def project(
    x: Float[Array, "B T I"],
    sites: Sequence[Site],
    context: AdapterContext = NO_CONTEXT,
) -> tuple[Float[Array, "B T _"], ...]:
    """y = x W + dy (B, T, O) for every site.

    Dropout is drawn once for the group. UserError for routing weights on fewer adapters than a site
    has.
    """
    require_columns(context.routing, max((count(site.adapter) for site in sites), default=0))
    # Plans compute x W, which so comes before x A: the gradient of x is summed in the order of its
    # products, and another order rounds differently.
    plans = [_plan(x, site, context) for site in sites]
    with jax.named_scope("adapters"):
        adapter_input = context.adapter_input(x)
        hidden = _shared_shrink(adapter_input, plans)
        return tuple(plan.output(adapter_input, h) for plan, h in zip(plans, hidden, strict=True))


def _plan(x: Float[Array, "B T I"], site: Site, context: AdapterContext) -> Plan:
    """The fastest plan that computes what the site's adapter needs."""
    # Each row's own factors: no product grows with the number of adapters.
    if routed.can_follow_ids(context.routing, context.rules):
        factors = routed.stacked_factors(site.adapter, site.w, context.shared)
        if factors is not None:
            return routed.Routed(linear(x, site.w), factors, context.routing)

    group = tuple(member.with_shared(context.shared) for member in members(site.adapter))
    with jax.named_scope("adapters"):
        parts = tuple(member.low_rank(site.w) for member in group)

    # A kernel computes x W and x A from one x, so dropout of the adapters' input rules it out.
    if group and not context.has_dropout and all(map(only_low_rank, group)):
        implementations = fused.faster_kernels(x, site, parts, context.rules)
        if implementations is not None:
            return fused.Fused(site.w, parts, context.routing, implementations)
    return Plain(linear(x, site.w), site.w, group, parts, context.routing)


def _shared_shrink(x: Float[Array, "B T I"], plans: Sequence[Plan]) -> list[Hidden]:
    """x A for every shrink of every plan, as one product."""
    # masters of A are float32, the products in the compute dtype of x
    factors = tuple(a.astype(x.dtype) for plan in plans for a in plan.shrinks)
    products = iter(shrink(x, factors) if factors else ())
    return [tuple(itertools.islice(products, len(plan.shrinks))) for plan in plans]
