"""Predicted seconds of a training step on this CPU beside measured ones, for three sizes.

    python benchmarks/plan_cpu.py --out=results/plan_cpu/plan_cpu.json

lab-1m and lab-10m at the batch of configs/lab.py, SmolLM2-135M at that of configs/math_ift.py; LoRA
of rank 16 and full finetuning. The machine's peaks are measured first (`planning.cpu_probe`). All
times are CPU seconds of the process for each of its cores, so that what else runs on the machine
does not count; the fastest of the steps is the measured one, and all are in the file.
"""

import argparse
import dataclasses
import json
import platform
import statistics
import time
from pathlib import Path

CASES = {
    name: (file, model)
    for name, file, model in (
        ("lab-1m", "lab", "lab-1m"),
        ("lab-10m", "lab", "lab-10m"),
        ("smollm2-135m", "math_ift", "smollm2-135m"),
    )
}


def main(a: argparse.Namespace) -> None:
    """Every case, each printed as it ends."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    results = []
    for name in a.cases.split(","):
        for words in ("lora,r=16", "full"):
            results.append(compared(name, words, a.steps))
            print(json.dumps(results[-1]), flush=True)
    record = {
        "command": f"python benchmarks/plan_cpu.py --cases={a.cases} --steps={a.steps}",
        "date": time.strftime("%Y-%m-%d"),
        "device": device(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "clock": "CPU seconds of the process / cores; peaks and measured step: best of repetitions",
        "within": all(result["within"] for result in results),
        "results": results,
    }
    if a.out:
        Path(a.out).parent.mkdir(parents=True, exist_ok=True)
        Path(a.out).write_text(json.dumps(record, indent=1) + "\n")


def device() -> str:
    """The CPU's name and cores, as Linux has them."""
    import os

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"{len(os.sched_getaffinity(0))} x {name}"


def compared(name: str, words: str, steps: int) -> dict:
    """The band of a step's time, and what steps took."""
    from lfl_jax.config import command_line
    from lfl_jax.planning import cpu_probe, plan, topology

    file, model = CASES[name]
    argv = ["", f"--config=configs/{file}.py:{words}", f"--config.model.name={model}"]
    config = command_line.parse([*argv, "--config.model.init=random"], "", {})[0]
    chip = cpu_probe.measure(config, cpu_probe.cpu)
    predicted = plan.of(config, topology.parse("cpu:1", chip)).time.total
    taken = measured(config, steps)
    return {
        "model": name,
        "trains": words,
        "tokens": config.train.batch * config.data.seq_len,
        "predicted": [round(predicted.fast, 4), round(predicted.slow, 4)],
        "measured": round(min(taken), 4),
        "median": round(statistics.median(taken), 4),
        "within": predicted.fast <= min(taken) <= predicted.slow,
        "peaks": dataclasses.asdict(chip),
        "all": [round(seconds, 4) for seconds in taken],
    }


def measured(config, steps: int) -> list[float]:
    """CPU seconds for each core of so many steps after the first two."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from lfl_jax import optim, schedules, state
    from lfl_jax.core.process import keep_freed_memory
    from lfl_jax.core.sharding import make_rules
    from lfl_jax.planning import cpu_probe
    from lfl_jax.run_setup import base_model, starting
    from lfl_jax.train_step import train_step

    rules = make_rules()
    base = base_model.load(config, rules)
    start = starting.make(config, base, rules, Path("/nonexistent"))
    tx = optim.make(config.optim, schedules.make(config.optim, 100))
    model = base.model.replace(adapter=start.adapter)
    current, frozen = state.create(model, config.trainable, tx, rules)
    cfg = base.cfg
    del base, start, model
    keep_freed_memory()
    rows = config.train.microbatch or config.train.batch
    shape = (config.train.batch // rows, rows, config.data.seq_len)
    draw = np.random.default_rng(0).integers(3, cfg.vocab_size, shape)
    tokens = jnp.asarray(draw, jnp.int32)
    # every position is a target, as the plan has it
    batch = {
        "tokens": tokens,
        "targets": jnp.roll(tokens, -1, axis=-1),
        "weights": jnp.ones(shape, jnp.float32),
        "segment_ids": jnp.ones(shape, jnp.int32),
        "positions": jnp.broadcast_to(jnp.arange(shape[-1]), shape),
    }
    key = jax.random.key(0) if cfg.adapter_dropout or cfg.attention_dropout else None
    taken = []
    for _ in range(steps + 2):
        before = cpu_probe.cpu()
        current, metrics = train_step(current, frozen, batch, key, cfg=cfg, tx=tx, rules=rules)
        jax.block_until_ready(metrics)
        taken.append(cpu_probe.cpu() - before)
    return taken[2:]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--cases", default=",".join(CASES), help="models, with commas between")
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each")
    parser.add_argument("--out", default="", help="JSON file for the results")
    main(parser.parse_args())
