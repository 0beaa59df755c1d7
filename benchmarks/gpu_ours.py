"""Our side of benchmarks/gpu.py: one stage in a process of its own, a JSON object a line for every row measured.

    python benchmarks/gpu_ours.py STAGE [--size=tiny]

Everything runs through the project's own code: train.train_step, sample.generate, the kernels as models call them.
"""

import dataclasses
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
import numpy as np

from lfl_jax import adapters, base_model, optim, quant, sample, schedules, train
from lfl_jax import state as states
from lfl_jax.config import AdapterConfig, OptimConfig
from lfl_jax.core import spec
from lfl_jax.core.sharding import make_rules
from lfl_jax.kernels import attention as attend
from lfl_jax.kernels.linear import linear
from lfl_jax.kernels.low_rank import grouped as many
from lfl_jax.kernels.low_rank import low_rank_projection
from lfl_jax.kernels.low_rank.reference import expand, shrink
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.models.presets import PRESETS

Row = dict[str, Any]
SCALE = 2.0
OPTIM = OptimConfig(
    name="adamw", lr=1e-5, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, clip=1.0, schedule="constant",
    warmup_steps=0, warmup_fraction=0.0, final_fraction=0.0, cooldown_fraction=0.0,
)  # fmt: skip


def seconds(run: Callable[[], Any], rounds: int = 5, least: float = 0.02) -> float:
    """Median seconds of a call, over rounds of as many calls as take `least` seconds; each round waits for its end."""
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


# --- what the device can do -------------------------------------------------------------------------------------------


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
    yield {"device": device.device_kind, "platform": device.platform, "memory_bytes": limit, "tflops": tflops} | {
        "gbps": gbps, "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
    }  # fmt: skip


# --- the low-rank projection ------------------------------------------------------------------------------------------


class Float8(NamedTuple):
    """A weight as e4m3 codes (I, O) and a scale; the product rounds its input to e4m3, too, with a scale for all."""

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


def implementations() -> dict[str, Callable]:
    """Every way to compute x W + (x A · scale) B here: XLA's, and the kernel of kernels/low_rank for this device."""

    def kernel(x: Any, w: Any, a: Any, b: Any) -> Any:
        gate = jnp.full((x.shape[0], a.shape[1]), SCALE, x.dtype)
        return low_rank_projection(x, w, a, b, gate, implementation=name)

    name = {"gpu": "pallas_gpu", "tpu": "pallas_tpu"}.get(jax.default_backend())
    return {"xla": xla} if name is None else {"xla": xla, name: kernel}


WEIGHTS: dict[str, Callable[[Any], Any]] = {
    "bf16": lambda w: w,
    "nf4": quant.nf4.quantise,
    "int8": quant.int8.quantise,
    "e4m3": jax.jit(float8),
}


def chain(one: Callable) -> Callable:
    """The same product with several weights in turn, as layers do: no weight stays in a cache, and each product waits
    for the one before."""

    def run(xs: list, *others: list) -> list:
        outs: list = []
        for x, *rest in zip(xs, *others, strict=True):
            if outs:
                x, outs[-1] = jax.lax.optimization_barrier((x, outs[-1]))
            outs.append(one(x, *rest))
        return outs

    return run


def kernels(size: gpu_sizes.Size) -> Iterator[Row]:
    """x W alone and every low-rank form, the most telling rows first; programs of a chunk are compiled side by side."""
    ways = implementations()
    for (rank, m), both in itertools.product(itertools.product(size.ranks, size.rows), (False, True)):
        if both and (rank != size.ranks[0] or m < 256):
            continue  # decoding has no backward pass
        jobs = list(_jobs(size, ways, rank, m, both))
        with ThreadPoolExecutor(8) as pool:
            compiled = list(pool.map(_compile, jobs))
        for job, program in zip(jobs, compiled, strict=True):
            yield _measured(job, program)


class Job(NamedTuple):
    """A row to be measured: what it is, the function of lists, its arguments, FLOPs and bytes of one product."""

    row: Row
    run: Callable
    args: tuple
    flops: float
    nbytes: float


def _jobs(size: gpu_sizes.Size, ways: dict[str, Callable], rank: int, m: int, both: bool) -> Iterator[Job]:
    first = rank == size.ranks[0]
    for (form, (i, o)), name in itertools.product(
        itertools.product(WEIGHTS, size.shapes), (*(("xw",) if first else ()), *ways)
    ):
        if form == "e4m3" and (both or name not in ("xw", "xla")):
            continue
        ws = _weights(form, i, o, size.cache)
        xs, factors, low_rank = [_normal((m, i))] * len(ws), [], 0
        one = (lambda x, w: times(x, w)) if name == "xw" else ways[name]
        if name != "xw":
            low_rank = rank * (i + o)
            factors = [[_normal((i, rank))] * len(ws), [_normal((rank, o))] * len(ws)]
        row = {"m": m, "i": i, "o": o, "r": rank, "weights": form, "what": name, "pass": "both" if both else "forward"}
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
    except Exception as error:  # a form that this device or shape does not have is a row of the table, too
        return error


def _measured(job: Job, program: Any, calls: int | None = None) -> Row:
    """The row with its time; a program multiplies as often as its first argument is long, or `calls` times."""
    try:
        if isinstance(program, Exception):
            raise program
        took = seconds(lambda: program(*job.args)) / (calls or len(job.args[0]))
    except Exception as error:
        return job.row | {"error": f"{type(error).__name__}: {error}"[:300]}
    return job.row | {"us": took * 1e6, "tflops": job.flops / took / 1e12, "gbps": job.nbytes / took / 1e9}


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
    """Many adapters in one batch: one product a group, beside the gate over all members' ranks."""
    (n, i, o), r = size.grouped, 16
    forms = {"routed": many.routed}
    forms |= {name: functools.partial(many.grouped_low_rank, implementation=name) for name in many.FORMS}
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
    """Forward and backward over packed rows in every form, and how far each is from the plain one in float32."""
    b, t, h, p = size.attention
    q, k, v, cotangent = (jax.random.normal(jax.random.key(i), (b, t, h, p), jnp.bfloat16) for i in range(4))
    ids = jnp.sort(jax.random.randint(jax.random.key(4), (b, t), 0, 4), axis=1)
    mask = jnp.tril(jnp.ones((t, t), bool)) & (ids[:, :, None] == ids[:, None, :])

    def both(name: str, *qkv: Any) -> Any:
        call = lambda *qkv: attend.attention(*qkv, mask, segment_ids=ids, implementation=name)  # noqa: E731
        out, pull = jax.vjp(call, *qkv)
        return out, *pull(cotangent.astype(out.dtype))

    wanted = jax.jit(functools.partial(both, "reference"))(*(x.astype(jnp.float32) for x in (q, k, v)))
    best = attend.choose(jax.default_backend(), q, k, ids)
    for name in dict.fromkeys((best, "blocked", "reference")):
        row = {"what": name, "pass": "both", "batch": b, "tokens": t, "heads": h, "width": p, "chosen": name == best}
        program = _compile(Job(row, functools.partial(both, name), (q, k, v), 0, 0))
        flops = 3.5 * 2 * b * t * t * h * p  # half of the scores; the backward pass has five products to two
        yield _measured(Job(row, None, (q, k, v), flops, 8 * q.nbytes), program, calls=1) | (
            {} if isinstance(program, Exception) else {"distance": _distance(program(q, k, v), wanted)}
        )


def _distance(found: Any, wanted: Any) -> float:
    """The largest ||x - y|| / ||y|| of output and gradients."""
    norm = lambda x: jnp.linalg.norm(x.astype(jnp.float32).reshape(-1))  # noqa: E731
    return max(float(norm(x - y) / norm(y)) for x, y in zip(found, wanted, strict=True))


# --- a whole training step --------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A finetuning step: adapter kind, how the base is held, what trains, forward and backward FLOPs over 2N."""

    adapter: str
    held: str
    trainable: str
    passes: int


KINDS = {
    "lora": Kind("lora", "bfloat16", "adapter/.*", 2),
    "none": Kind("none", "bfloat16", "params/layers/attn_norm", 2),  # dx through every layer, nothing else
    "qlora": Kind("lora", "nf4", "adapter/.*", 2),
    "dora": Kind("dora", "bfloat16", "adapter/.*", 2),
    "full": Kind("none", "float32", "params/.*", 3),
}


def step(size: gpu_sizes.Size, name: str) -> Iterator[Row]:
    """train.train_step with the least recomputation that fits; as many steps as fit into a few seconds."""
    kind = KINDS[name]
    preset = size.full_model if name == "full" else size.model
    rules, tx = make_rules(), optim.make(OPTIM, schedules.make(OPTIM, 1000))
    cfg = dataclasses.replace(PRESETS[preset], compute_dtype="bfloat16")
    params = base_model.random_params(cfg, 0, rules, kind.held)
    model = {"params": params, "adapter": _adapter(cfg, kind, params)}
    state, frozen = states.create(model, (kind.trainable,), tx, rules)
    del params, model
    rows = _batch(cfg, size.batch, size.tokens)
    for remat in ("none", "selective", "full"):
        cfg = dataclasses.replace(cfg, remat=remat)
        start = time.perf_counter()
        program = train.train_step.lower(state, frozen, rows, None, cfg=cfg, tx=tx, rules=rules).compile()
        compiled, needed = time.perf_counter() - start, _needed(program)
        if needed < ((jax.devices()[0].memory_stats() or {}).get("bytes_limit") or 1 << 62):
            break
        print(f"  {name}: {needed / 2**30:.1f} GiB without more recomputation than {remat!r}", file=sys.stderr)
    losses, took = [], []
    for _ in range(size.steps + 2):
        start = time.perf_counter()
        state, metrics = program(state, frozen, rows, None)
        losses.append(float(metrics["loss"]))
        took.append(time.perf_counter() - start)
    multiplied = spec.count(llama.specs(cfg)) - cfg.vocab_size * cfg.d_model  # without the embedding, a look-up
    yield {
        "framework": "lfl_jax", "what": name, "model": preset, "batch": size.batch, "tokens": size.tokens,
        "remat": remat, "step_s": statistics.median(took[2:]), "compile_s": compiled, "loss": losses[0],
        "last_loss": losses[-1], "n": multiplied, "flops_per_token": 2 * kind.passes * multiplied,
        "recomputed_per_token": 2 * multiplied if remat == "full" else 0, "program_bytes": needed,
        "peak_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
    }  # fmt: skip


def _adapter(cfg: ModelConfig, kind: Kind, params: dict) -> dict:
    """Rank 16 on all linear weights, with factors that are not zero."""
    if kind.adapter == "none":
        return {}
    specs = adapters.specs(llama.specs(cfg), AdapterConfig(kind=kind.adapter, rank=16))
    build = jax.jit(lambda key: jax.tree.map(lambda x: x + 1e-3, spec.init(specs, key)))
    return adapters.bind(build(jax.random.key(1)), params)


def _batch(cfg: ModelConfig, rows: int, tokens: int) -> dict:
    """One microbatch of random tokens, every one a target; a document a row."""
    ids = np.random.default_rng(0).integers(3, cfg.vocab_size, (1, rows, tokens + 1)).astype(np.int32)
    ones = np.ones_like(ids[..., 1:])
    found = {"tokens": ids[..., :-1], "targets": ids[..., 1:], "weights": ones.astype(np.float32)}
    return jax.tree.map(jnp.asarray, found | {"segment_ids": ones, "positions": np.cumsum(ones, axis=-1) - 1})


def _needed(program: Any) -> int:
    """Bytes that a compiled program takes on the device."""
    m = program.memory_analysis()
    return m.argument_size_in_bytes + m.temp_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode(size: gpu_sizes.Size, held: str) -> Iterator[Row]:
    """sample.generate: the time of one prompt and 32 tokens, and of each token after them, without prompt."""
    rules = make_rules()
    cfg = dataclasses.replace(PRESETS[size.model], compute_dtype="bfloat16")
    model = {"params": base_model.random_params(cfg, 0, rules, held), "adapter": {}}
    model = sample.unstacked(model, cfg.n_layers)
    for rows in size.decode_rows:
        prompts = np.random.default_rng(0).integers(3, cfg.vocab_size, (rows, size.prompt)).tolist()

        def run(stop: Callable, prompts: list = prompts) -> float:
            start = time.perf_counter()
            sample.generate(model, prompts, cfg, max_new_tokens=2 * sample.ROUND, eos_id=-1, stop=stop)
            return time.perf_counter() - start

        whole, first = (lambda _: False), (lambda _: True)
        run(whole)
        pairs = [(run(whole), run(first)) for _ in range(5)]
        token = statistics.median(a - b for a, b in pairs) / sample.ROUND
        yield {
            "framework": "lfl_jax", "what": held, "rows": rows, "ms_per_token": 1e3 * token,
            "tokens_per_s": rows / token, "first_32_ms": 1e3 * statistics.median(b for _, b in pairs),
            "peak_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
        }  # fmt: skip


STAGES: dict[str, Callable[[gpu_sizes.Size], Iterator[Row]]] = {
    "ceilings": ceilings,
    "kernels": kernels,
    "grouped": grouped,
    "attention": attentions,
    **{f"step_{name}": functools.partial(step, name=name) for name in KINDS},
    "decode_bf16": functools.partial(decode, held="bfloat16"),
    "decode_nf4": functools.partial(decode, held="nf4"),
}


if __name__ == "__main__":
    gpu_sizes.main(STAGES, __doc__)
