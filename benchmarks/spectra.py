"""Spectra at the size of Llama-2-7B on the CPU: seconds, memory, and distance from exact values.

    python benchmarks/spectra.py adapter      all 224 modules of a random LoRA of rank 256
    python benchmarks/spectra.py full         one dense dW of 4096 by 11008, by every method

The adapter's change is decomposed through its factors; `dense_s` is what LAPACK takes for one of its
224 modules when dW is formed. The dense dW is the difference of a random weight before and after a
low-rank change with noise, so that it has directions above a full-rank bulk; `exact` is LAPACK's
float64 SVD of it (minutes). Both print JSON with the peak memory of the process.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from lfl_jax.adapters.lora import LoRA
from lfl_jax.analysis import decompose, spectra, weight_changes
from lfl_jax.core import spec, svd
from lfl_jax.io.memory import peak_memory_bytes
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.presets import PRESETS

RANK = 256


def random_adapter(shapes: dict) -> dict:
    """A LoRA of rank RANK at every linear weight, in float32."""
    key, layers = jax.random.key(0), {}
    for part in ("attn", "mlp"):
        layers[part] = {}
        for module, w in shapes["layers"][part].items():
            count, fan_in, fan_out = w.shape
            key, one, other = jax.random.split(key, 3)
            layers[part][module] = LoRA(
                a=jax.random.normal(one, (count, fan_in, RANK)) * fan_in**-0.5,
                b=jax.random.normal(other, (count, RANK, fan_out)) * 0.01,
                scale=jnp.full((count, RANK), 2.0),
            )
    return {"layers": layers}


def adapter() -> dict:
    """Every module of an adapter, and one of them through dW."""
    shapes = spec.abstract(llama.specs(PRESETS["llama2-7b"]))
    tuned = Model(params=shapes, adapter=jax.block_until_ready(random_adapter(shapes)))
    start = time.perf_counter()
    rows = list(spectra.records(weight_changes.of_model(shapes, tuned), norm_of=None))
    seconds, peak = time.perf_counter() - start, peak_memory_bytes().host

    change = next(weight_changes.of_model(shapes, tuned))
    dense = change.dense()
    start = time.perf_counter()
    exact = np.linalg.svd(dense, compute_uv=False)[:RANK]
    dense_s = time.perf_counter() - start
    error = np.abs(decompose.spectrum(change).s / exact - 1).max()
    return {
        "modules": len(rows),
        "seconds": seconds,
        "peak_gb": peak / 1e9,
        "dense_s": dense_s,
        "largest_relative_difference": float(error),
        "k90": sorted({row["k90"] for row in rows}),
    }


def planted(rows: int, columns: int) -> np.ndarray:
    """A dense change in float32: 64 directions whose strength falls, above noise of full rank."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((rows, 64)) / np.arange(1, 65) ** 0.5
    low = a @ rng.standard_normal((64, columns)) / columns**0.5
    return (low + 0.01 * rng.standard_normal((rows, columns))).astype(np.float32)


METHODS = {
    "exact": lambda x: svd.values_of_matrix(x),
    "gram": lambda x: svd.values_by_gram(x),
    "projection": lambda x: decompose.by_projection(x).s,
}


def full(rows: int, columns: int) -> dict:
    """Every method on one dense dW."""
    dw, results = planted(rows, columns), {}
    for name, values in METHODS.items():
        start = time.perf_counter()
        s = values(dw)
        results[name] = {"seconds": time.perf_counter() - start}
        results[name] |= {m: spectra.MEASURES[m].of(s) for m in ("k90", "effective_rank")}
    for name in ("gram", "projection"):
        one, exact = results[name]["effective_rank"], results["exact"]["effective_rank"]
        results[name]["effective_rank_off_by"] = one / exact - 1
    return results | {"shape": [rows, columns], "peak_gb": peak_memory_bytes().host / 1e9}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("adapter", "full"))
    parser.add_argument("--shape", type=int, nargs=2, default=(4096, 11008))
    arguments = parser.parse_args()
    measured = adapter() if arguments.what == "adapter" else full(*arguments.shape)
    print(json.dumps({"benchmark": f"spectra {arguments.what}"} | measured, indent=1))
