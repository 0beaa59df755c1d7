"""Run in its own process with 8 CPU devices: a model whose adapters go through kernels, and by ids,
on a mesh."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")

import dataclasses  # noqa: E402
import math  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers import adapter_for  # noqa: E402

from lfl_jax import adapters  # noqa: E402
from lfl_jax.adapters import routed  # noqa: E402
from lfl_jax.core import spec  # noqa: E402
from lfl_jax.core.sharding import make_rules  # noqa: E402
from lfl_jax.kernels.low_rank import selection  # noqa: E402
from lfl_jax.kernels.low_rank.reference import XLA  # noqa: E402
from lfl_jax.kernels.low_rank.selection import Entry, shape_class  # noqa: E402
from lfl_jax.kernels.low_rank.tiles import Tiles  # noqa: E402
from lfl_jax.models import llama  # noqa: E402
from lfl_jax.models.config import ModelConfig  # noqa: E402

CFG = ModelConfig(
    vocab_size=128, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=64
)
ROWS, LENGTH, MEMBERS, RANK = 8, 16, 8, 2
TOKENS = jnp.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) * 7 % CFG.vocab_size
# adapted weights (32, 32) and (64, 32), as a device of (2, 2, 2) sees them
LOCAL = {"q": (32, 16), "down": (32, 32)}
IDS = np.array([3, -1, 0, 7, 7, 2, 5, 3])
SPECS = llama.specs(CFG)
seen = set()


@dataclasses.dataclass(frozen=True)
class Kernel(XLA):
    """Stands for a kernel: the plain form, with the shapes that it sees noted down."""

    device: str = ""
    tiles: Tiles | None = None

    def forward(self, x, w, a, b, routing):
        seen.add(("forward", x.shape[0], *w.shape))
        return super().forward(x, w, a, b, routing)

    def backward(self, dy, w, a, b, routing):
        seen.add(("backward", dy.shape[0], *w.shape))
        return super().backward(dy, w, a, b, routing)


def results(sizes, routing):
    """Loss and gradients of all members on a mesh of these sizes."""
    rules = make_rules(*sizes, devices=jax.devices()[: math.prod(sizes)])
    params = jax.tree.map(lambda x: x * 4 if x.ndim > 1 else x, spec.init(SPECS, jax.random.key(0)))
    adapter = adapters.stack(
        *(
            adapter_for(CFG, params, rank=RANK, seed=seed, targets=tuple(LOCAL))
            for seed in range(MEMBERS)
        )
    )
    params = jax.device_put(params, spec.shardings(SPECS, rules))
    put = lambda x, *axes: jax.device_put(x, rules.sharding(axes, x.shape))  # noqa: E731
    tokens, routing = (
        put(TOKENS, "batch", "time"),
        put(routing, *("batch", "activation")[: routing.ndim]),
    )
    adapter = jax.tree.map(lambda x: put(x, "layers", *("rank",) * (x.ndim - 1)), adapter)

    def loss(adapter):
        return jnp.sum(
            jnp.sin(llama.forward(params, adapter, tokens, CFG, routing=routing, rules=rules)[0])
        )

    return jax.device_get(jax.jit(jax.value_and_grad(loss))(adapter))


def worst(found, wanted):
    """The largest distance of a leaf, relative where it is not zero: members that no row names have
    no gradient."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return max(float(np.linalg.norm(x - y) / (np.linalg.norm(y) or 1.0)) for x, y in pairs)


for form in ("low_rank_by_example", "grouped_low_rank"):
    plain = getattr(routed, form)
    setattr(routed, form, lambda *args, form=form, plain=plain: seen.add(form) or plain(*args))
one_hot = adapters.route(IDS, MEMBERS)
wanted = results((1, 1, 1), one_hot)
far = worst(results((2, 2, 2), jnp.asarray(IDS)), wanted)
assert seen == {"low_rank_by_example"}
seen.clear()
print(f"ids on a mesh: equal, {far:.1e}")
assert far < 1e-4
far = worst(results((1, 8, 1), jnp.repeat(jnp.asarray(IDS)[:, None], LENGTH, axis=1)), wanted)
assert not seen
print(f"ids by token on a mesh of one axis go by the routing: equal, {far:.1e}")
assert far < 1e-4

# Of what a device has of them on (2, 2, 2), both adapted weights have a kernel.
entries = tuple(
    Entry("cpu", "dense", direction, shape_class(ROWS * LENGTH // 4, *shape, MEMBERS * RANK), "kernel", Tiles(1, 1, 1),
          1.0, 2.0, "here")
    for direction in ("forward", "backward")
    for shape in LOCAL.values()
)  # fmt: skip
selection.committed = lambda: entries
selection.IMPLEMENTATIONS["kernel"] = Kernel
far = worst(results((2, 2, 2), one_hot), wanted)
print(f"kernels on a mesh: equal, {far:.1e}, {len(seen)} of them")
assert far < 1e-4
assert seen == {
    (way, ROWS * LENGTH // 4, *shape) for way in ("forward", "backward") for shape in LOCAL.values()
}
