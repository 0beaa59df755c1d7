"""Which implementation and which tiles are fastest for the low-rank projection on this device.

    python benchmarks/tune_low_rank.py --out=results/low_rank_h200.json --table
    python benchmarks/tune_low_rank.py --rehearse --out=/tmp/rehearsal.json   # any machine, tiny, kernels interpreted

Forward and backward of every weight are timed by XLA and by the device's kernel with the tiles that
tiles.py ranks first, the most telling cases first; what does not fit into --seconds is left out.
--out gets all times as they come; --table writes those that pay into
lfl_jax/kernels/low_rank/selected.json (or a file), which keeps its other entries. One call goes
through enough weights to leave the caches cold, as a model's layers do.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import gpu_kernels
import jax
import jax.numpy as jnp

from lfl_jax import quant
from lfl_jax.kernels.low_rank import formats, selection, tiles
from lfl_jax.kernels.low_rank.reference import XLA

KERNELS = {"tpu": "pallas_tpu", "gpu": "pallas_gpu", "cpu": "pallas_tpu"}
SHORTLISTS = {"pallas_tpu": tiles.shortlist_tpu, "pallas_gpu": tiles.shortlist_gpu}
FORMATS = {"nf4": quant.nf4.quantise, "dense": lambda w: w, "int8": quant.int8.quantise}
LLAMA_2_7B = ("4096x4096", "4096x11008", "11008x4096")
PASSES = ("forward", "backward")
COLD = 256 * 2**20  # bytes of weights in one call
TRIED = 6  # tiles of a shortlist


def measure(implementation: Any, direction: str, given: tuple[Any, ...], rounds: int) -> float:
    """Median seconds of one pass over one layer."""
    xs, *layers, gates = given
    program = jax.jit(gpu_kernels.chain(getattr(implementation, direction)))
    return gpu_kernels.seconds(lambda: program(xs, *layers, gates), rounds) / len(xs)


def operands(
    form: str, inputs: int, outputs: int, rows: int, rank: int, direction: str
) -> tuple[Any, ...]:
    """Lists as long as there are layers: x or dy, w, a, b, routing. The weights are equal and apart
    in memory."""
    keys = jax.random.split(jax.random.key(0), 5)
    normal = lambda key, *shape: jax.random.normal(key, shape, jnp.bfloat16)  # noqa: E731
    one = FORMATS[form](normal(keys[0], inputs, outputs))
    count = 2 if jax.default_backend() == "cpu" else max(2, -(-COLD // quant.nbytes(one)))
    sizes = (
        (rows, inputs if direction == "forward" else outputs),
        (inputs, rank),
        (rank, outputs),
        (rows, rank),
    )
    x, a, b, routing = (normal(key, *size) for key, size in zip(keys[1:], sizes, strict=True))
    ws = [jax.tree.map(jnp.copy, one) for _ in range(count)]
    return [x] * count, ws, [a] * count, [b] * count, [routing] * count


def compare(
    a: argparse.Namespace, form: str, weight: str, rows: int, rank: int, direction: str
) -> tuple[dict, Any]:
    """Times of one pass over one weight, and the entry they make."""
    inputs, outputs = map(int, weight.split("x"))
    given = operands(form, inputs, outputs, rows, rank, direction)
    kind, kernel = jax.devices()[0].device_kind, KERNELS[jax.default_backend()]
    stored, _ = jax.eval_shape(formats.FORMATS[form].operands, given[1][0])
    product = formats.product(formats.FORMATS[form], stored, rows, rank, 2, direction == "backward")
    case = {
        "format": form,
        "weight": weight,
        "rows": rows,
        "rank": rank,
        "pass": direction,
        "kernel": kernel,
    }
    base, tried, errors = measure(XLA(), direction, given, a.rounds), [], {}
    for t in SHORTLISTS[kernel](product, kind)[: a.tried]:
        made = selection.IMPLEMENTATIONS[kernel](
            device=kind, tiles=t, **({"interpret": True} if a.rehearse else {})
        )
        try:
            tried.append((measure(made, direction, given, a.rounds), t))
        except Exception as error:  # tiles that this compiler refuses are not candidates
            errors[_name(t)] = f"{type(error).__name__}: {error}"[:300]
    found = case | {"xla_s": base, "kernel_s": {_name(t): s for s, t in tried}, "errors": errors}
    print(json.dumps(found), file=sys.stderr)
    if not tried:
        return found, None
    best, t = min(tried, key=lambda pair: pair[0])
    shape = selection.shape_class(rows, inputs, outputs, rank)
    return found, selection.Entry(kind, form, direction, shape, kernel, t, best, base, str(a.out))


def _name(t: tiles.Tiles) -> str:
    return "x".join(map(str, dataclasses.astuple(t)))


def table(old: tuple[selection.Entry, ...], new: list[selection.Entry]) -> str:
    """The text of a selection table: what was measured anew replaces what stood for the same."""
    again = {entry.key for entry in new}
    return selection.write((*(entry for entry in old if entry.key not in again), *new))


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--table",
        type=Path,
        nargs="?",
        const=selection.TABLE,
        help="write the selection table, too",
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="tiny sizes, kernels interpreted; proves the script"
    )
    parser.add_argument(
        "--seconds", type=float, default=530, help="after which no further case begins"
    )
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--weights", nargs="+", default=LLAMA_2_7B, help="as IxO")
    parser.add_argument("--rows", nargs="+", type=int, default=[8192, 1, 512, 16])
    parser.add_argument("--ranks", nargs="+", type=int, default=[16, 64, 256])
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken")
    parser.add_argument("--tried", type=int, default=TRIED, help="how many tiles of the shortlist")
    a = parser.parse_args()
    if a.rehearse:
        a.weights, a.rows, a.ranks, a.rounds, a.tried = ["256x384"], [40], [4], 1, 2
    elif jax.default_backend() == "cpu":
        parser.error("there is no kernel for a CPU; --rehearse runs the script on tiny sizes")
    run(a)


def run(a: argparse.Namespace) -> None:
    """Every case until the time is over; --out and --table are whole after each."""
    begun, old = time.monotonic(), selection.committed()
    about = {
        "benchmark": "tune_low_rank",
        "rehearsed": a.rehearse,
        "date": time.strftime("%Y-%m-%d"),
    }
    about |= {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
    cases = list(itertools.product(a.ranks, a.rows, a.formats, a.weights, PASSES))
    found, entries = [], []
    for rank, rows, form, weight, direction in cases:
        if time.monotonic() - begun > a.seconds:
            break
        case, entry = compare(a, form, weight, rows, rank, direction)
        found.append(case)
        entries += [] if entry is None else [entry]
        a.out.write_text(
            json.dumps(about | {"left_out": len(cases) - len(found), "found": found}, indent=1)
            + "\n"
        )
        if a.table:
            a.table.write_text(table(old, entries))


if __name__ == "__main__":
    main()
