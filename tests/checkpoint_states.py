"""A small training state, and how the tests of checkpoints save and compare it."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lfl_jax.io.checkpoint import Checkpoints

META = {"base_fingerprint": "cafe", "config_hash": "0123"}


@struct.dataclass
class Layer:
    a: jax.Array
    b: jax.Array | None
    scale: jax.Array


def float32(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def adapter(rank: int = 4, seed: int = 0) -> dict:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(3, 6, rank)), random.normal(size=(3, rank, 6))
    layer = Layer(a=float32(a), b=float32(b), scale=float32(np.full((3, rank), 2.0)))
    return {"layers": {"attn": {"q": layer, "k": None}}, "shared": (float32(np.arange(3)), None)}


def train_state(rank: int = 4, seed: int = 0) -> dict:
    tree = adapter(rank, seed)
    return {
        "adapter": tree,
        "params": {"embed": None, "layers": {"norm": None}},
        "optimizer": (adapter(rank, seed + 100), jnp.int32(7)),
        "rng": jax.random.key(seed),
    }


def save(checkpoints: Checkpoints, step: int, state: dict | None = None, **metrics: float) -> bool:
    state = train_state(seed=step) if state is None else state
    position = {"parent": {"next_index": step}, "counter": 6}
    return checkpoints.save(step, state, iterator_state=position, metrics=metrics, metadata=META)


def assert_same(left: object, right: object) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)
