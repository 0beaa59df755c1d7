"""Spectra at the size of Llama-2-7B on the CPU: seconds, memory, and distance from exact values.

    python benchmarks/spectra.py adapter          all 224 modules of a random LoRA of rank 256
    python benchmarks/spectra.py full             one dense dW of 4096 by 11008
    python benchmarks/spectra.py full --lapack    and LAPACK's SVD of it: minutes of CPU time

The adapter's change is decomposed through its factors. The dense dW has 64 directions above a bulk
of full rank; the Gram matrix gives its exact values, which --lapack confirms, and the projection is
compared with those. cpu_s counts the seconds of all threads of this process: on a machine that is
busy otherwise it says more than the time that passed. Prints JSON with the peak memory.

Measured with one thread (OPENBLAS_NUM_THREADS=1) of an AMD EPYC that 15 other processes used:
    adapter        25 s of CPU time, 3.5 GB, of which the adapter itself is 2.6 GB
    full           Gram matrix 11 s, projection 11 s; the projection's effective rank 2784.4 is off
                   by 0.07 %, its k90 1055 by 0.6 %; 1.2 GB
"""

import argparse
import json
import time

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
    rng, layers = np.random.default_rng(0), {}

    def normal(*shape: int, std: float) -> jnp.ndarray:
        return jnp.asarray(np.float32(std) * rng.standard_normal(shape, dtype=np.float32))

    for part in ("attn", "mlp"):
        layers[part] = {}
        for module, w in shapes["layers"][part].items():
            count, fan_in, fan_out = w.shape
            layers[part][module] = LoRA(
                a=normal(count, fan_in, RANK, std=fan_in**-0.5),
                b=normal(count, RANK, fan_out, std=0.01),
                scale=jnp.full((count, RANK), 2.0),
            )
    return {"layers": layers}


class Clock:
    """Seconds since it was made: that passed, and of all threads of this process."""

    def __init__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict:
        """{"wall_s", "cpu_s"} so far."""
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}


def adapter(a: argparse.Namespace) -> dict:
    """Every module of an adapter, whose base is known by its shapes only."""
    shapes = spec.abstract(llama.specs(PRESETS["llama2-7b"]))
    tuned = Model(params=shapes, adapter=random_adapter(shapes))
    clock = Clock()
    rows = list(spectra.records(weight_changes.of_model(shapes, tuned), norm_of=None))
    ranks = sorted({row["k90"] for row in rows})
    return {"modules": len(rows), "k90": [ranks[0], ranks[-1]]} | clock.read()


def planted(rows: int, columns: int) -> np.ndarray:
    """A dense change in float32: 64 directions whose strength falls, above noise of full rank."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((rows, 64)) / np.arange(1, 65) ** 0.5
    low = a @ rng.standard_normal((64, columns)) / columns**0.5
    return (low + 0.01 * rng.standard_normal((rows, columns))).astype(np.float32)


def full(a: argparse.Namespace) -> dict:
    """Every method on one dense dW."""
    dw, results = planted(*a.shape), {"shape": list(a.shape)}
    methods = {"gram": svd.values_by_gram, "projection": lambda x: decompose.by_projection(x).s}
    if a.lapack:
        methods["lapack"] = svd.values_of_matrix
    for name, values in methods.items():
        clock = Clock()
        s = values(dw)
        results[name] = clock.read()
        results[name] |= {m: spectra.MEASURES[m].of(s) for m in ("k90", "effective_rank")}

    exact = results["lapack" if a.lapack else "gram"]
    for name in methods:
        off_by = results[name]["effective_rank"] / exact["effective_rank"] - 1
        results[name]["effective_rank_off_by"] = off_by
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("adapter", "full"))
    parser.add_argument("--shape", type=int, nargs=2, default=(4096, 11008))
    parser.add_argument("--lapack", action="store_true")
    arguments = parser.parse_args()
    measured = {"adapter": adapter, "full": full}[arguments.what](arguments)
    peak = {"peak_gb": round(peak_memory_bytes().host / 1e9, 2)}
    print(json.dumps({"benchmark": f"spectra {arguments.what}"} | measured | peak, indent=1))
