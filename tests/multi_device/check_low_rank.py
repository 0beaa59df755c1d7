"""Run in its own process with 8 CPU devices: the sharded low-rank projection against the one on one
device."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")

import numpy as np  # noqa: E402

from lfl_jax import quant  # noqa: E402
from lfl_jax.core.sharding import make_rules  # noqa: E402
from lfl_jax.kernels.low_rank import low_rank_projection  # noqa: E402
from lfl_jax.kernels.low_rank.pallas_tpu import PallasTPU  # noqa: E402
from lfl_jax.kernels.low_rank.reference import XLA  # noqa: E402
from lfl_jax.kernels.low_rank.sharded import Sharded  # noqa: E402
from lfl_jax.kernels.low_rank.tiles import Tiles  # noqa: E402

ROWS, INPUTS, OUTPUTS, RANK = 48, 512, 384, 6
KERNEL = PallasTPU(tiles=Tiles(16, 128, 128), interpret=True)
KEYS = jax.random.split(jax.random.key(0), 6)
SIZES = (
    (ROWS, INPUTS),
    (INPUTS, OUTPUTS),
    (INPUTS, RANK),
    (RANK, OUTPUTS),
    (ROWS, RANK),
    (ROWS, OUTPUTS),
)
X, W, A, B, GATE, DY = (jax.random.normal(key, size) for key, size in zip(KEYS, SIZES, strict=True))
HELD = {"dense": W, "int8": quant.int8.quantise(W), "nf4": quant.nf4.quantise(W)}


def results(implementation, x, w, a, b, routing, dy):
    def run(w, dy, *learned):
        f = lambda *v: low_rank_projection(v[0], w, *v[1:], implementation=implementation)  # noqa: E731
        y, pull = jax.vjp(f, *learned)
        return y, *pull(dy)

    return jax.jit(run)(w, dy, x, a, b, routing)


def placed(rules, axes, w):
    """The operands as the model lays them out on the mesh."""
    put = lambda v, *axes: jax.device_put(v, rules.sharding(axes, v.shape))  # noqa: E731
    weight = jax.tree.map(
        lambda v: put(v, *axes) if v.ndim == 2 else put(v, *("activation",) * v.ndim), w
    )
    features = ["activation" if axis == "embed" else axis for axis in axes]
    return (
        put(X, "batch", features[0]), weight, put(A, axes[0], "rank"), put(B, "rank", axes[1]),
        put(GATE, "batch", "activation"), put(DY, "batch", features[1]),
    )  # fmt: skip


CASES = (((2, 2, 2), "dense", KERNEL), ((1, 4, 2), "nf4", KERNEL), ((2, 1, 4), "int8", XLA()))
for sizes, form, inner in CASES:
    for axes in (("embed", "heads"), ("heads", "embed")):
        rules = make_rules(*sizes)
        given = placed(rules, axes, HELD[form])
        shared = results(Sharded(inner, rules, axes), *given)
        alone = results(XLA(), X, HELD[form], A, B, GATE, DY)
        worst = max(
            float(np.linalg.norm(s - y) / np.linalg.norm(y))
            for s, y in zip(shared, alone, strict=True)
        )
        spread = shared[0].sharding.num_devices > 1 and not shared[0].sharding.is_fully_replicated
        print(
            f"{form} {axes} on {sizes} by {type(inner).__name__}: differs by {worst:.1e}, sharded"
            f" {spread}"
        )
        assert worst < 1e-5 and spread
