"""Run in its own process with 8 CPU devices: kernels on shards of a mesh against the same on one
device."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")

import functools  # noqa: E402
import re  # noqa: E402

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from lfl_jax import losses  # noqa: E402
from lfl_jax.core.sharding import make_rules  # noqa: E402
from lfl_jax.kernels.attention import cudnn, splash  # noqa: E402
from lfl_jax.kernels.attention.shards import per_shard  # noqa: E402
from lfl_jax.kernels.linear_cross_entropy.reference import token_nll, weighted_nll_sum  # noqa: E402

MESHES = ((2, 2, 2), (1, 1, 8), (1, 2, 4))
# Rows and query heads that a device of each mesh has, of 4 and 8; four key heads cannot be split
# over 8 devices.
LOCAL = {(2, 2, 2): (1, 4), (1, 1, 8): (4, 8), (1, 2, 4): (2, 2)}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def attention():
    """Four key heads: sharded over a tensor axis of 2 and 4, left whole on one of 8."""
    q, k, v = normal(0, 4, 128, 8, 8), normal(1, 4, 128, 4, 8), normal(2, 4, 128, 4, 8)
    ids = jnp.sort(jax.random.randint(jax.random.key(3), (4, 128), 0, 4), axis=1)
    kernels = {
        "cudnn": functools.partial(cudnn, implementation="xla"),
        "splash": functools.partial(splash, interpret=True),
    }
    for name, kernel in kernels.items():
        seen = set()
        noted = lambda q, *others: seen.add((q.shape[0], q.shape[2])) or kernel(q, *others)  # noqa: B023, E731
        value = lambda q, k, v, rules: jnp.sum(per_shard(noted, q, k, v, ids, rules) ** 2)  # noqa: B023, E731
        wanted = jax.value_and_grad(value, argnums=(0, 1, 2))(q, k, v, None)
        for mesh in MESHES[: 3 if name == "cudnn" else 1]:
            seen.clear()
            found = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)), static_argnums=3)(
                q, k, v, make_rules(*mesh)
            )
            assert seen == {LOCAL[mesh]}, seen
            for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
            print(f"{name} on {mesh}: equal")


def cross_entropy():
    """The head sharded over its vocabulary: equal, and nothing of the vocabulary's width is ever
    put together."""
    b, t, d, v = 4, 70, 16, 1024
    hidden, head = normal(0, b, t, d), normal(1, v, d)
    targets = jax.random.randint(jax.random.key(2), (b, t), 0, v)
    weights = (jax.random.uniform(jax.random.key(3), (b, t)) < 0.7).astype(jnp.float32)

    def loss(hidden, head, rules):
        return weighted_nll_sum(hidden, losses.shard_head(head, rules), targets, weights)

    def each(hidden, head, rules):
        return token_nll(hidden, losses.shard_head(head, rules), targets, weights)

    for name, f in (
        ("loss and gradients", jax.value_and_grad(loss, argnums=(0, 1))),
        ("per token", each),
    ):
        wanted = f(hidden, head, None)
        for mesh in MESHES:
            rules = make_rules(*mesh)
            placed = (
                jax.device_put(
                    hidden, rules.sharding(("batch", "time", "activation"), hidden.shape)
                ),
                jax.device_put(head, rules.sharding(("vocab", "embed"), head.shape)),
            )
            compiled = jax.jit(f, static_argnums=2).lower(*placed, rules).compile()
            found = compiled(*placed)
            for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
            widest = max(wide_collectives(compiled.as_text(), v), default=0)
            assert not widest, (
                f"{name} on {mesh}: a collective of {widest} elements has the whole vocabulary"
            )
            print(f"{name} on {mesh}: equal, no collective of the whole vocabulary")


def wide_collectives(text, v):
    """Elements of every collective's result that has a dimension of the whole vocabulary."""
    pattern = r"= \(?([a-z0-9]+)\[([0-9,]*)\][^=]* (?:all-gather|all-reduce|all-to-all|collective-permute)[-a-z]*\("
    for _, dims in re.findall(pattern, text):
        sizes = [int(x) for x in dims.split(",") if x]
        if v in sizes:
            yield int(np.prod(sizes))


attention()
cross_entropy()
