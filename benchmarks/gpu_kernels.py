"""The products of benchmarks/gpu.py: ceilings, the low-rank projection, many adapters, attention; a
JSON object a row.

    python benchmarks/gpu_kernels.py STAGE [--size=tiny]

The kernels are called as models call them.
"""

import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import gpu_sizes
import jax
import jax.numpy as jnp

from lfl_jax import quant
from lfl_jax.kernels import attention as attend
from lfl_jax.kernels.linear import linear
from lfl_jax.kernels.low_rank import grouped as many
from lfl_jax.kernels.low_rank import low_rank_projection, selection
from lfl_jax.kernels.low_rank.reference import expand, shrink

Row = dict[str, Any]
SCALE = 2.0


def seconds(run: Callable[[], Any], rounds: int = 5, least: float = 0.02) -> float:
    """Median seconds of a call, over rounds of as many calls as take `least` seconds; each round
    waits for its end."""
    jax.block_until_ready(run())
    start = time.perf_counter()
    jax.block_until_ready(run())
    calls = max(1, round(least / max(time.perf_counter() - start, 1e-6)))
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            out = run()
        jax.block_until_ready(out)
        found.append((time.perf_counter() - start) / calls)
    return statistics.median(found)


# --- what the device can do
# -------------------------------------------------------------------------------------------


def ceilings(size: gpu_sizes.Size) -> Iterator[Row]:
    """A large bfloat16 product of random matrices, and a large copy (bytes read and written)."""
    device, n = jax.devices()[0], size.product
    a, b = (jax.random.normal(jax.random.key(i), (n, n), jnp.bfloat16) for i in range(2))
    product = jax.jit(jnp.matmul)
    tflops = 2 * n**3 / seconds(lambda: product(a, b)) / 1e12
    x = jnp.zeros(size.copy, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    gbps = 2 * x.nbytes / seconds(lambda: copy(x)) / 1e9
    limit = (device.memory_stats() or {}).get("bytes_limit")
    yield {
        "device": device.device_kind, "platform": device.platform, "memory_bytes": limit,
        "tflops": tflops, "gbps": gbps, "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
    }  # fmt: skip


# --- the low-rank projection
# ------------------------------------------------------------------------------------------


class Float8(NamedTuple):
    """A weight as e4m3 codes (I, O) and a scale; the product rounds its input to e4m3, too, with a
    scale for all."""

    codes: Any
    scale: Any


def float8(x: Any) -> Float8:
    """x as codes that use e4m3's whole range."""
    scale = jnp.max(jnp.abs(x)).astype(jnp.float32) / 448
    return Float8((x / scale).astype(jnp.float8_e4m3fn), scale)


def times(x: Any, w: Any) -> Any:
    """x W for every form of weight."""
    if not isinstance(w, Float8):
        return linear(x, w)
    rounded = float8(x)
    y = jnp.matmul(rounded.codes, w.codes, preferred_element_type=jnp.bfloat16)
    return y * (rounded.scale * w.scale).astype(x.dtype)


def xla(x: Any, w: Any, a: Any, b: Any) -> Any:
    """x W + (x A · scale) B as XLA compiles it."""
    return times(x, w) + expand((shrink(x, (a,))[0] * SCALE,), (b,))


def kernel(x: Any, w: Any, a: Any, b: Any) -> Any:
    """The same by this device's kernel. On a CPU the TPU's is interpreted: which shows that this
    runs, no more."""
    name = {"gpu": "pallas_gpu", "tpu": "pallas_tpu"}.get(jax.default_backend())
    chosen = name or selection.IMPLEMENTATIONS["pallas_tpu"](interpret=True)
    routing = jnp.full((x.shape[0], a.shape[1]), SCALE, x.dtype)
    return low_rank_projection(x, w, a, b, routing, implementation=chosen)


XLA = {"xw": times, "xla": xla}
OWN = {"kernel": kernel}
WEIGHTS: dict[str, Callable[[Any], Any]] = {
    "bf16": lambda w: w,
    "nf4": quant.nf4.quantise,
    "int8": quant.int8.quantise,
    "e4m3": jax.jit(float8),
}


def chain(one: Callable) -> Callable:
    """The same product with several weights in turn, as layers do: no weight stays in a cache, and
    each product waits for the one before."""
    one = jax.jit(one)  # so that it is lowered once, and not for every weight

    def run(xs: list, *others: list) -> list:
        outs: list = []
        for x, *rest in zip(xs, *others, strict=True):
            if outs:
                x, outs[-1] = jax.lax.optimization_barrier((x, outs[-1]))
            outs.append(one(x, *rest))
        return outs

    return run


def kernels(
    size: gpu_sizes.Size, ways: dict[str, Callable], forms: tuple[str, ...]
) -> Iterator[Row]:
    """Products with weights in these forms, the most telling rows first; programs of a chunk are
    compiled side by side, and none is measured meanwhile."""
    for rank, m, both, form in itertools.product(size.ranks, size.rows, (False, True), forms):
        if both and (rank != size.ranks[0] or m < 256 or form == "e4m3"):
            continue  # decoding has no backward pass
        jobs = list(_jobs(size, ways, form, rank, m, both))
        with ThreadPoolExecutor(8) as pool:
            compiled = list(pool.map(_compile, jobs))
        for job, program in zip(jobs, compiled, strict=True):
            yield _measured(job, program)


class Job(NamedTuple):
    """A row to be measured: what it is, the function of lists, its arguments, FLOPs and bytes of
    one product."""

    row: Row
    run: Callable
    args: tuple
    flops: float
    nbytes: float


def _jobs(
    size: gpu_sizes.Size, ways: dict[str, Callable], form: str, rank: int, m: int, both: bool
) -> Iterator[Job]:
    for (i, o), (name, one) in itertools.product(size.shapes, ways.items()):
        if name == "xw" and rank != size.ranks[0]:
            continue  # it has no rank
        ws = _weights(form, i, o, size.cache)
        xs, factors, low_rank = [_normal((m, i))] * len(ws), [], 0
        if name != "xw":
            low_rank = rank * (i + o)
            factors = [[_normal((i, rank))] * len(ws), [_normal((rank, o))] * len(ws)]
        row = {
            "m": m,
            "i": i,
            "o": o,
            "r": rank,
            "weights": form,
            "what": name,
            "pass": "both" if both else "forward",
        }
        passes = 2 if both else 1
        nbytes = passes * (quant.nbytes(ws[0]) + 2 * (m * (i + o) + low_rank))
        flops = 2 * m * (passes * i * o + (3 if both else 1) * low_rank)
        yield Job(row, chain(_both(one) if both else one), (xs, ws, *factors), flops, nbytes)


def _both(one: Callable) -> Callable:
    """Value and gradients with respect to x and the factors, for a cotangent of ones."""

    def run(x: Any, w: Any, *factors: Any) -> Any:
        y, pull = jax.vjp(lambda x, *factors: one(x, w, *factors), x, *factors)
        return y, pull(jax.lax.optimization_barrier(x[:1, :1] * 0 + jnp.ones_like(y)))

    return run


def _compile(job: Job) -> Any:
    try:
        return jax.jit(job.run).lower(*job.args).compile()
    # a form that this device or shape does not have is a row of the table, too
    except Exception as error:
        return error


def _measured(job: Job, program: Any, calls: int | None = None) -> Row:
    """The row with its time; a program multiplies as often as its first argument is long, or
    `calls` times."""
    try:
        if isinstance(program, Exception):
            raise program
        took = seconds(lambda: program(*job.args)) / (calls or len(job.args[0]))
    except Exception as error:
        return job.row | {"error": f"{type(error).__name__}: {error}"[:300]}
    return job.row | {
        "us": took * 1e6,
        "tflops": job.flops / took / 1e12,
        "gbps": job.nbytes / took / 1e9,
    }


@functools.cache
def _weights(form: str, i: int, o: int, cache: int) -> list:
    """So many different weights that they exceed the device's caches."""
    dense = [_normal((i, o), seed) for seed in range(16)]
    one = jax.block_until_ready(WEIGHTS[form](dense[0]))
    count = min(16, max(2, -(-cache // quant.nbytes(one))))
    return [one, *(WEIGHTS[form](w) for w in dense[1:count])]


@functools.cache
def _normal(shape: tuple[int, ...], seed: int = 0) -> Any:
    return jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16) * 0.02


def grouped(size: gpu_sizes.Size) -> Iterator[Row]:
    """Many adapters in one batch: one product a group, beside the routing over all members'
    ranks."""
    (n, i, o), r = size.grouped, 16
    forms = {"routed": many.one_hot_reference}
    forms |= {
        name: functools.partial(many.grouped_low_rank, implementation=name) for name in many.FORMS
    }
    for members, both in itertools.product((8, 32, 64), (False, True)):
        x, scale = _normal((n, i)), jnp.full((members, r), SCALE, jnp.bfloat16)
        a, b = _normal((members, i, r)), _normal((members, r, o))
        ids = jax.random.randint(jax.random.key(0), (n,), -1, members)
        for name, form in forms.items():
            row = {"n": n, "i": i, "o": o, "r": r, "members": members, "what": name}
            row["pass"] = "both" if both else "forward"
            one = _both(lambda x, ids, a, b, f=form, s=scale: f(x, a, b, ids, s)) if both else form
            args = (x, ids, a, b) if both else (x, a, b, ids, scale)
            job = Job(row, one, args, 2 * n * r * (i + o) * (3 if both else 1), 2 * n * (i + o))
            yield _measured(job, _compile(job), calls=1)


# --- attention --------------------------------------------------------------------------------------------------------


def attentions(size: gpu_sizes.Size) -> Iterator[Row]:
    """Forward and backward over packed rows in every form, and how far each is from the plain one
    in float32."""
    b, t, h, p = size.attention
    q, k, v, cotangent = (
        jax.random.normal(jax.random.key(i), (b, t, h, p), jnp.bfloat16) for i in range(4)
    )
    ids = jnp.sort(jax.random.randint(jax.random.key(4), (b, t), 0, 4), axis=1)
    mask = jnp.tril(jnp.ones((t, t), bool)) & (ids[:, :, None] == ids[:, None, :])

    def both(name: str, *qkv: Any) -> Any:
        call = lambda *qkv: attend.attention(*qkv, mask, segment_ids=ids, implementation=name)  # noqa: E731
        out, pull = jax.vjp(call, *qkv)
        return out, *pull(cotangent.astype(out.dtype))

    with jax.default_matmul_precision("highest"):  # a GPU would round float32 to TensorFloat32
        wanted = jax.jit(functools.partial(both, "reference"))(
            *(x.astype(jnp.float32) for x in (q, k, v))
        )
    best = attend.choose(jax.default_backend(), q, k, ids)
    for name in dict.fromkeys((best, "blocked", "reference")):
        row = {
            "what": name,
            "pass": "both",
            "batch": b,
            "tokens": t,
            "heads": h,
            "width": p,
            "chosen": name == best,
        }
        program = _compile(Job(row, functools.partial(both, name), (q, k, v), 0, 0))
        # half of the scores; the backward pass has five products to two
        flops = 3.5 * 2 * b * t * t * h * p
        found = _measured(Job(row, None, (q, k, v), flops, 8 * q.nbytes), program, calls=1)
        yield (
            found if "error" in found else found | {"distance": _distance(program(q, k, v), wanted)}
        )


def _distance(found: Any, wanted: Any) -> float:
    """The largest ||x - y|| / ||y|| of output and gradients."""
    norm = lambda x: jnp.linalg.norm(x.astype(jnp.float32).reshape(-1))  # noqa: E731
    return max(float(norm(x - y) / norm(y)) for x, y in zip(found, wanted, strict=True))


STAGES: dict[str, Callable[[gpu_sizes.Size], Iterator[Row]]] = {
    "ceilings": ceilings,
    "kernels_xla": functools.partial(kernels, ways=XLA, forms=tuple(WEIGHTS)),
    **{
        f"kernels_{form}": functools.partial(kernels, ways=OWN, forms=(form,))
        for form in ("bf16", "nf4", "int8")
    },
    "grouped": grouped,
    "attention": attentions,
}


if __name__ == "__main__":
    gpu_sizes.main(STAGES, __doc__)
