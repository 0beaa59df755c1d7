"""What a compiler plans for a device that is not here: Llama-2-7B's widths, three layers, LoRA r16,
bfloat16.

    python benchmarks/compiled.py --device=v5e      by libtpu (extra tpu)
    python benchmarks/compiled.py --device=h200     by jax's CUDA plugin (jax 0.11: jax-cuda13-plugin, jax-cuda13-pjrt)

For the frozen weights in every format: temporary memory of a decoded token at one row, from the
stacked layers and from layers apart, and of the gradients of 2048 tokens. One layer's weights are
386 MiB in bfloat16, the widest 86 MiB: a temporary of that size is a copy, or a dequantised W.
Nothing is run, and time is not told. Prints one JSON object.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
}

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from lfl_jax import adapters, quant
from lfl_jax.config import AdapterConfig
from lfl_jax.core import spec
from lfl_jax.models import llama
from lfl_jax.models.cache import empty_cache
from lfl_jax.models.config import ModelConfig

CFG = ModelConfig(
    vocab_size=2048, d_model=4096, n_layers=3, n_heads=32, n_kv_heads=32, head_dim=128, d_ff=11008,
    compute_dtype=jnp.bfloat16,
)  # fmt: skip
# What XLA's compiler for GPUs asks about one.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 151397597184 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES } registers_per_core_limit: 65536
  registers_per_block_limit: 65536 thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  device_vendor: "NVIDIA Corporation" platform_version: "Compute Capability 9.0a" device_address_bits: 64
  name: "NVIDIA H200" driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 } device_description_str: "NVIDIA H200"
"""
DEVICES: dict[str, Callable[[], Any]] = {
    "v5e": lambda: topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2"),
    "h200": lambda: topologies.get_topology_desc(
        "h200", "cuda", target_config=H200, topology="1x1x1"
    ),
}


def token(params: dict, adapter: dict, tokens: Any) -> Any:
    """Hidden states of one new token."""
    cache = empty_cache(params, CFG, tokens.shape[0], 512)
    return llama.forward(params, adapter, tokens, CFG, cache=cache)[0]


def gradients(params: dict, adapter: dict, tokens: Any) -> Any:
    """Of the adapter."""
    return jax.grad(
        lambda a: jnp.sum(llama.forward(params, a, tokens, CFG)[0].astype(jnp.float32))
    )(adapter)


def shapes(tree: Any) -> Any:
    """Of specs."""
    return spec.tree_map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), tree)


def apart(tree: dict) -> dict:
    """With a tuple of layers in place of the stack."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tree["layers"])
    return tree | {"layers": (one,) * CFG.n_layers}


def compiled(run: Callable, params: dict, adapter: dict, length: int, sharding: Any) -> dict:
    """What the compiler plans; params and adapter are shapes."""
    placed = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)  # noqa: E731
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    start = time.perf_counter()
    program = jax.jit(run).lower(*jax.tree.map(placed, (params, adapter, tokens))).compile()
    memory = program.memory_analysis()
    return {
        "temporaries_mib": round(memory.temp_size_in_bytes / 2**20),
        "arguments_mib": round(memory.argument_size_in_bytes / 2**20),
        "compile_s": round(time.perf_counter() - start, 1),
    }


def measure(device: str) -> dict:
    """Every format."""
    sharding = SingleDeviceSharding(DEVICES[device]().devices[0])
    whole = llama.specs(CFG, jnp.bfloat16)
    adapter = shapes(adapters.specs(whole, AdapterConfig(kind="lora", rank=16)))
    found = {}
    for form in ("bfloat16", *quant.FORMATS):
        hold = quant.FORMATS[form].specs if form in quant.FORMATS else lambda s: s
        weights = {
            part: {n: hold(s) for n, s in whole["layers"][part].items()} for part in ("attn", "mlp")
        }
        params = shapes(whole | {"layers": whole["layers"] | weights})
        found[form] = {
            "a token, stacked": compiled(token, params, adapter, 1, sharding),
            "a token, layers apart": compiled(token, apart(params), apart(adapter), 1, sharding),
            "gradients of 2048 tokens": compiled(gradients, params, adapter, 2048, sharding),
        }
        print(form, found[form], file=sys.stderr)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=list(DEVICES), required=True)
    name = parser.parse_args().device
    versions = {"jax": jax.__version__, "python": platform.python_version()}
    print(
        json.dumps(
            {
                "device": f"{name}, compiled for, not run",
                "found": measure(name),
                "versions": versions,
            },
            indent=1,
        )
    )
