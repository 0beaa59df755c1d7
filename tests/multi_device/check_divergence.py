"""Run in its own process with 8 CPU devices: KL to the base on a mesh against one device."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers import adapter_for, packed  # noqa: E402

from lfl_jax import adapters  # noqa: E402
from lfl_jax.analysis.divergence import Variant, of_variants  # noqa: E402
from lfl_jax.config import AdapterConfig  # noqa: E402
from lfl_jax.core import spec  # noqa: E402
from lfl_jax.core.sharding import make_rules  # noqa: E402
from lfl_jax.model import Model  # noqa: E402
from lfl_jax.models import llama  # noqa: E402
from lfl_jax.models.config import ModelConfig  # noqa: E402

CFG = ModelConfig(
    vocab_size=128, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=64
)
LENGTHS = [[7, 12, 9], [20, 6], [3, 28], [16, 10], [32], [30, 2], [5, 5, 5], [11, 20]]
SPECS = llama.specs(CFG)
PARAMS = jax.tree.map(lambda x: x * 4 if x.ndim > 1 else x, spec.init(SPECS, jax.random.key(0)))
ADAPTER = adapter_for(CFG, PARAMS)


def divergences(mesh):
    """(of the adapted model from its base, of the base from itself)."""
    rules = make_rules(*mesh, devices=jax.devices()[: int(np.prod(mesh))])
    adapter_specs = adapters.specs(SPECS, AdapterConfig(kind="lora", rank=4))
    model = Model(
        params=jax.device_put(PARAMS, spec.shardings(SPECS, rules)),
        adapter=jax.device_put(ADAPTER, spec.shardings(adapter_specs, rules)),
    )
    batch = {
        name: jax.device_put(x, rules.sharding(("batch", "time"), x.shape))
        for name, x in packed(LENGTHS, 32, CFG.vocab_size).items()
    }
    base, tuned = (Variant(model, jnp.full((8, 1), float(weight))) for weight in (0, 1))
    return [of_variants(base, other, batch, CFG, rules) for other in (tuned, base)]


wanted, _ = divergences((1, 1, 1))
assert float(wanted.forward.max()) > 0.1
for mesh in ((2, 2, 2), (1, 1, 8)):
    found, nothing = divergences(mesh)
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    assert not any(np.any(x) for x in nothing), "exactly 0 on a mesh, too"
    print(f"divergence on {mesh}: equal")
