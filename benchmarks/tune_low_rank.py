"""Which implementation and which tiles are fastest for the low-rank projection on this device.

    python benchmarks/tune_low_rank.py --out=results/low_rank_h200.json --table
    python benchmarks/tune_low_rank.py --rehearse --out=/tmp/rehearsal.json   # any machine, tiny, kernels interpreted

Forward and backward of every weight are timed by XLA and by the device's kernel with the tiles that tiles.py ranks
first. --out gets all times; --table writes those that pay into lfl_jax/kernels/low_rank/selected.json, which keeps the
entries of other devices. One call goes through enough weights to leave the caches cold, as a model's layers do.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lfl_jax import quant
from lfl_jax.kernels.low_rank import formats, selection, tiles
from lfl_jax.kernels.low_rank.reference import XLA

KERNELS = {"tpu": "pallas_tpu", "gpu": "pallas_gpu", "cpu": "pallas_tpu"}
SHORTLISTS = {"pallas_tpu": tiles.shortlist_tpu, "pallas_gpu": tiles.shortlist_gpu}
FORMATS = {"dense": lambda w: w, "int8": quant.int8.quantise, "nf4": quant.nf4.quantise}
LLAMA_2_7B = ("4096x4096", "4096x11008", "11008x4096")
PASSES = ("forward", "backward")
COLD = 256 * 2**20  # bytes of weights in one call
TRIED = 6  # tiles of a shortlist


def measure(run: Callable[..., Any], operands: tuple[Any, ...], layers: int, repeats: int) -> float:
    """Median seconds of one layer."""
    program = jax.jit(run)
    jax.block_until_ready(program(*operands))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(program(*operands))
        seconds.append((time.perf_counter() - start) / layers)
    return statistics.median(seconds)


def program(implementation: Any, direction: str) -> Callable[..., Any]:
    """One pass through all layers, each after the other: its input waits for the output before."""

    def run(x: Any, layers: Any, gate: Any) -> Any:
        for w, a, b in layers:
            y, _ = jax.lax.optimization_barrier(getattr(implementation, direction)(x, w, a, b, gate))
            x = x + (1e-30 * y[0, 0]).astype(x.dtype)
        return x

    return run


def operands(form: str, inputs: int, outputs: int, rows: int, rank: int, direction: str) -> tuple[Any, ...]:
    """Random x or dy, layers of (w, a, b), and a gate."""
    keys = jax.random.split(jax.random.key(0), 3)
    normal = lambda key, *shape: jax.random.normal(key, shape, jnp.bfloat16)  # noqa: E731
    one = FORMATS[form](normal(keys[0], inputs, outputs))
    count = 1 if jax.default_backend() == "cpu" else max(2, -(-COLD // quant.nbytes(one)))
    low_rank = normal(keys[1], inputs, rank), normal(keys[2], rank, outputs)
    layers = [(jax.tree.map(jnp.copy, one), *low_rank) for _ in range(count)]
    return normal(keys[1], rows, inputs if direction == "forward" else outputs), layers, normal(keys[2], rows, rank)


def compare(a: argparse.Namespace, form: str, weight: str, rows: int, rank: int, direction: str) -> tuple[dict, Any]:
    """Times of one pass over one weight, and the entry they make."""
    inputs, outputs = map(int, weight.split("x"))
    given = operands(form, inputs, outputs, rows, rank, direction)
    kind, kernel = jax.devices()[0].device_kind, KERNELS[jax.default_backend()]
    stored, _ = jax.eval_shape(formats.FORMATS[form].operands, given[1][0][0])
    product = formats.product(formats.FORMATS[form], stored, rows, rank, 2, direction == "backward")
    base = measure(program(XLA(), direction), given, len(given[1]), a.repeats)
    tried = []
    for t in SHORTLISTS[kernel](product, kind)[: a.tried]:
        made = selection.IMPLEMENTATIONS[kernel](device=kind, tiles=t, **({"interpret": True} if a.rehearse else {}))
        try:
            tried.append((measure(program(made, direction), given, len(given[1]), a.repeats), t))
        except jax.errors.JaxRuntimeError as error:  # tiles that this compiler refuses are not candidates
            print(f"{t}: {str(error).splitlines()[0]}", file=sys.stderr)
    case = {"format": form, "weight": weight, "rows": rows, "rank": rank, "pass": direction, "xla_s": base}
    found = case | {"kernel": kernel, "kernel_s": {str(dataclasses.astuple(t)): s for s, t in tried}}
    print(json.dumps(found), file=sys.stderr)
    if not tried:
        return found, None
    best, t = min(tried, key=lambda pair: pair[0])
    shape = selection.shape_class(rows, inputs, outputs, rank)
    return found, selection.Entry(kind, form, direction, shape, kernel, t, best, base, str(a.out))


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="write the selection table, too")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, kernels interpreted; proves the script")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--weights", nargs="+", default=LLAMA_2_7B, help="as IxO")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16, 512, 8192])
    parser.add_argument("--ranks", nargs="+", type=int, default=[16, 64, 256])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--tried", type=int, default=TRIED, help="how many tiles of the shortlist")
    a = parser.parse_args()
    if a.rehearse:
        a.weights, a.rows, a.ranks, a.repeats, a.tried, a.table = ["256x384"], [40], [4], 1, 1, False
    elif jax.default_backend() == "cpu":
        parser.error("there is no kernel for a CPU; --rehearse runs the script on tiny sizes")
    cases = [(f, w, n, r, d) for f in a.formats for w in a.weights for n in a.rows for r in a.ranks for d in PASSES]
    found, entries = zip(*(compare(a, *case) for case in cases), strict=True)
    versions = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "date": time.strftime("%Y-%m-%d")}
    a.out.write_text(json.dumps({"benchmark": "tune_low_rank", **versions, "found": found}, indent=1) + "\n")
    if a.table:
        kept = [e for e in selection.committed() if e.device != versions["device"]]
        selection.TABLE.write_text(selection.write((*kept, *(e for e in entries if e is not None))))


if __name__ == "__main__":
    main()
