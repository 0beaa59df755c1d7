"""What adapters cost, at the SmolLM2-135M shape with random weights: ratios to LoRA of rank 16 on
all linear modules.

    python benchmarks/adapters.py --what=step      a training step of 1 x 256 tokens for each kind; eight routed LoRAs
    python benchmarks/adapters.py --what=large     LoRA, DoRA and MoRA at 4 x 256 tokens: a norm beside more rows
    python benchmarks/adapters.py --what=decode    a token at batch 1, 8 and 32: base, merged and unmerged LoRA, Houlsby
    python benchmarks/adapters.py --what=dozens    4 to 64 LoRAs routed by a one-hot routing and by ids: a step, a token
    python benchmarks/adapters.py --what=memory    bytes of the frozen base, and the step's temporary memory under NF4

Variants take turns within a round, and a ratio is the median over rounds of (variant / reference)
in that round.
Targets: DoRA 1.10, MoRA 1.15, eight stacked adapters routed per example 1.5; merged LoRA within 2%
of the base; NF4 0.30 of bfloat16. Prints one JSON object.
"""

import argparse
import dataclasses
import functools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from lfl_jax.configs import math_ift

from lfl_jax import adapters, optim, quant, sample, schedules
from lfl_jax import state as states
from lfl_jax.adapters import routed
from lfl_jax.config import AdapterConfig, Config
from lfl_jax.core import spec, tree
from lfl_jax.core.process import keep_freed_memory
from lfl_jax.core.sharding import make_rules
from lfl_jax.io.pretrained import linear_quantiser
from lfl_jax.model import Model
from lfl_jax.models import llama
from lfl_jax.models.config import ModelConfig
from lfl_jax.models.presets import PRESETS
from lfl_jax.train_step import train_step

CFG = dataclasses.replace(PRESETS["smollm2-135m"], remat="selective")
SPECS = llama.specs(CFG)
# layers and head have the shares of time they had
TENTH = dataclasses.replace(CFG, n_layers=3, vocab_size=4928)
MEMBERS = 8


def adapter(params: dict, kind: str, seed: int = 1, cfg: ModelConfig = CFG, **options) -> dict:
    """An adapter of rank 16 with trained-looking factors."""
    config = AdapterConfig(kind=kind, rank=16, **options)
    fresh = adapters.init(adapters.specs(llama.specs(cfg), config), params, jax.random.key(seed))
    trained = jax.tree.map(lambda x: x + 1e-3, fresh)
    return adapters.rebind(trained, params)  # constants read off the weights, such as DoRA's norms


def stack(params: dict, members: int = MEMBERS, cfg: ModelConfig = CFG, **options) -> dict:
    """So many LoRAs."""
    return adapters.stack(
        *(adapter(params, "lora", seed, cfg, **options) for seed in range(members))
    )


def batch(rows: int, tokens: int, cfg: ModelConfig = CFG) -> dict:
    """One packed microbatch of random tokens."""
    ids = (
        np.random.default_rng(0).integers(3, cfg.vocab_size, (1, rows, tokens + 1)).astype(np.int32)
    )
    ones = np.ones_like(ids[..., 1:])
    weights = np.broadcast_to(np.arange(tokens) >= tokens // 2, ones.shape).astype(np.float32)
    found = {
        "tokens": ids[..., :-1],
        "targets": ids[..., 1:],
        "weights": weights,
        "segment_ids": ones,
    }
    return jax.tree.map(jnp.asarray, found | {"positions": np.cumsum(ones, axis=-1) - 1})


@functools.cache
def optimizer():
    """AdamW, as math_ift has it."""
    config = dataclasses.replace(Config.from_dict(math_ift.get_config()).optim, lr=1e-5)
    return optim.make(config, schedules.make(config, 1000))


def step(params: dict, learned: dict, rows: dict, cfg: ModelConfig = CFG) -> Callable[[], None]:
    """A training step that can be called again and again."""
    learned = jax.tree.map(jnp.copy, learned)
    state, frozen = states.create(
        Model(params=params, adapter=learned), ("adapter/.*",), optimizer(), make_rules()
    )

    def run() -> None:
        nonlocal state
        state, metrics = train_step(state, frozen, rows, None, cfg=cfg, tx=optimizer())
        jax.block_until_ready(metrics)

    return run


def measure(variants: dict[str, Callable[[], None]], reference: str, rounds: int) -> dict:
    """Median seconds of each variant, and its median ratio to the reference within a round."""
    for run in variants.values():
        run(), run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(rounds):
        for name in sorted(variants, reverse=bool(i % 2)):
            start = time.perf_counter()
            variants[name]()
            seconds[name].append(time.perf_counter() - start)
        print(f"round {i + 1}/{rounds}", file=sys.stderr)
    ratio = lambda name: statistics.median(  # noqa: E731
        a / b for a, b in zip(seconds[name], seconds[reference], strict=True)
    )
    return {
        name: {"median_s": round(statistics.median(x), 4), "ratio": round(ratio(name), 3)}
        for name, x in seconds.items()
    }


def steps(a: argparse.Namespace) -> dict:
    """Kinds at one row, and eight adapters over eight rows, each row routed to its own."""
    params, one, many = base(), batch(1, 256), batch(MEMBERS, 64)
    kinds = ("lora", "dora", "mora", "mora_sharing1", "vera", "ia3", "bottleneck", "pissa")
    variants = {kind: step(params, adapter(params, kind), one) for kind in kinds}
    variants["qlora"] = step(held(params, "nf4"), adapter(params, "lora"), one)
    found = {"1 x 256 tokens": measure(variants, "lora", a.rounds)}
    routing = adapters.route(np.arange(MEMBERS), MEMBERS)[None]
    routed = {
        "one adapter": step(params, adapter(params, "lora"), many),
        "eight, routed": step(params, stack(params), many | {"routing": routing}),
    }
    return found | {"8 x 64 tokens": measure(routed, "one adapter", a.rounds)}


def large(a: argparse.Namespace) -> dict:
    """Kinds whose overhead does not grow with the tokens, or does."""
    params, rows = base(), batch(4, 256)
    variants = {
        kind: step(params, adapter(params, kind), rows) for kind in ("lora", "dora", "mora")
    }
    return {"4 x 256 tokens": measure(variants, "lora", a.rounds)}


def decode(a: argparse.Namespace) -> dict:
    """Milliseconds a token by batch size, as in table 1 of the LoRA paper (arXiv 2106.09685)."""
    params = base()
    lora, houlsby = adapter(params, "lora"), adapter(params, "bottleneck")
    models = {
        "base": Model(params=params, adapter={}),
        "lora, merged": Model(params=adapters.merge(lora, params), adapter={}),
        "lora": Model(params=params, adapter=lora),
        "dora": Model(params=params, adapter=adapter(params, "dora")),
        "houlsby": Model(params=params, adapter=houlsby),
    }
    models = {name: sample.unstacked(model, CFG.n_layers) for name, model in models.items()}
    found = {}
    for rows in (1, 8, 32):
        prompts = [[5] * 32] * rows
        variants = {
            name: functools.partial(
                sample.generate, model, prompts, CFG, max_new_tokens=sample.ROUND, eos_id=-1
            )
            for name, model in models.items()
        }
        times = measure(variants, "base", a.rounds)
        found[f"batch {rows}"] = {
            name: {
                "ms_per_token": round(1000 * x["median_s"] / sample.ROUND, 2),
                "ratio": x["ratio"],
            }
            for name, x in times.items()
        }
    return found


def dozens(a: argparse.Namespace) -> dict:
    """Ways to route, for few adapters on all linear modules and for more on two: a step has arrays
    of every member."""
    routed.MEMBERS = 1  # both ways are measured for any number of members
    everywhere = AdapterConfig("lora").targets
    cases = [
        (everywhere, 4),
        (everywhere, 8),
        *((("up", "down"), members) for members in (4, 8, 16, 32, 64)),
    ]
    return {
        f"{members} on {' '.join(targets)}": routes(targets, members, a.rounds)
        for targets, members in cases
    }


def routes(targets: tuple[str, ...], members: int, rounds: int) -> dict:
    """A step of 16 x 32 tokens and decoding 16 rows, at a tenth of the shape, each row with a LoRA
    drawn at random."""
    params, rows, tokens = base(TENTH), 16, 32
    many, ids = (
        stack(params, members, TENTH, targets=targets),
        np.random.default_rng(0).integers(0, members, rows),
    )
    gates = {"one-hot": adapters.route(ids, members), "ids": ids}
    by_token = {"ids by token": np.repeat(ids[:, None], tokens, axis=1)}
    training = {
        name: step(
            params,
            many,
            batch(rows, tokens, TENTH) | {"routing": jnp.asarray(routing)[None]},
            TENTH,
        )
        for name, routing in (gates | by_token).items()
    }
    model = sample.unstacked(Model(params=params, adapter=many), TENTH.n_layers)
    options = {"max_new_tokens": sample.ROUND, "eos_id": -1}
    decoding = {
        name: functools.partial(
            sample.generate, model, [[5] * 32] * rows, TENTH, routing=routing, **options
        )
        for name, routing in gates.items()
    }
    return {
        "step": measure(training, "one-hot", rounds),
        "decode": measure(decoding, "one-hot", rounds),
    }


def memory(a: argparse.Namespace) -> dict:
    """Bytes of the base's linear weights, of the whole base, and of a compiled step's temporaries
    without remat."""
    params, cfg = base(), dataclasses.replace(CFG, remat="none")
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    forms = {"bfloat16": half, "int8": held(half, "int8"), "nf4": held(half, "nf4")}
    linear = lambda p: {part: p["layers"][part] for part in ("attn", "mlp")}  # noqa: E731
    size = {form: (quant.nbytes(linear(p)), quant.nbytes(p)) for form, p in forms.items()}
    temporary = {}
    for form, held_params in (("float32", params), ("nf4", held(params, "nf4"))):
        learned, rows = adapter(params, "lora"), batch(1, 64)
        state, frozen = states.create(
            Model(params=held_params, adapter=learned), ("adapter/.*",), optimizer()
        )
        compiled = train_step.lower(state, frozen, rows, None, cfg=cfg, tx=optimizer()).compile()
        temporary[form] = compiled.memory_analysis().temp_size_in_bytes
    return {
        "linear weights, bytes": {form: x for form, (x, _) in size.items()},
        "linear weights, ratio to bfloat16": {
            form: round(x / size["bfloat16"][0], 4) for form, (x, _) in size.items()
        },
        "whole base, ratio to bfloat16": {
            form: round(x / size["bfloat16"][1], 4) for form, (_, x) in size.items()
        },
        "Llama-2-7B, whole base, ratio to bfloat16": round(
            seven_billion("nf4") / seven_billion("bfloat16"), 4
        ),
        "temporaries of a step of 64 tokens without remat, bytes": temporary
        | {"all linear weights in float32": 2 * size["bfloat16"][0]},
    }


def seven_billion(form: str) -> int:
    """Bytes of Llama-2-7B's parameters, from their specs."""
    specs = llama.specs(PRESETS["llama2-7b"], jnp.bfloat16)
    in_form = lambda s: (  # noqa: E731
        quant.FORMATS[form].specs(s) if form in quant.FORMATS and len(s.shape) == 3 else s
    )
    return quant.nbytes(spec.tree_map(in_form, specs))


def base(cfg: ModelConfig = CFG) -> dict:
    """Random parameters in float32."""
    return jax.jit(functools.partial(spec.init, llama.specs(cfg)))(jax.random.key(0))


def held(params: dict, form: str) -> dict:
    """The parameters with their linear weights quantised."""
    hold = linear_quantiser(form, make_rules())
    visit = lambda path, s, x: hold(tree.name(path), dataclasses.replace(s, dtype=x.dtype), x)  # noqa: E731
    return jax.tree_util.tree_map_with_path(visit, SPECS, params, is_leaf=spec.is_spec)


def main() -> None:
    """Measure and print."""
    measures = {"step": steps, "large": large, "decode": decode, "dozens": dozens, "memory": memory}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=measures, default="step")
    parser.add_argument("--rounds", type=int, default=7)
    a = parser.parse_args()
    keep_freed_memory()
    found = {"benchmark": vars(a), "found": measures[a.what](a)}
    versions = {"jax": jax.__version__, "python": platform.python_version()}
    print(json.dumps(found | {"machine": platform.machine(), "versions": versions}, indent=1))


if __name__ == "__main__":
    main()
