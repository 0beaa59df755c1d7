"""From the start of a run to its first step, where another of its shape ran in the process before.

    python benchmarks/next_run.py                        the lab, LoRA rank 16: the target is 0.3 s
    python benchmarks/next_run.py --config=math_ift:lora,r=16     SmolLM2-135M: the target is 2 s

Runs of a study: each has a learning rate and a length of its own, and reads the base's evaluations
that the first one left. Prints JSON, a line per run: seconds of the clock and of the processor, and
how many compiled steps the process has. The last ones count; on a machine with other work look at
the processor's.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import jax

from lfl_jax import train
from lfl_jax.config import command_line
from lfl_jax.run_setup.shared import Shared

# Evaluations are made of what the config evaluates anyway, but nothing during training.
FIELDS = {
    "eval.every_tasks": (),
    "checkpoint.best": "",
    "checkpoint.every": 0,
    "log.tensorboard": False,
    "eval.limit": 16,
}


class FirstStep(Exception):
    """Ends a run where its first step is done."""


def until_first_step(request: train.Run) -> tuple[float, float]:
    """(seconds of the clock, of the processor)."""
    started = time.monotonic(), time.process_time()
    try:
        train.run(request)
    except FirstStep:
        return time.monotonic() - started[0], time.process_time() - started[1]
    raise SystemExit("the run was over before its first step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="lab:lora,r=16")
    parser.add_argument("--runs", type=int, default=4)
    options = parser.parse_args()

    step = train.train_step

    def one_step(*arguments, **names):
        jax.block_until_ready(step(*arguments, **names))
        raise FirstStep

    # What else the loop asks of it.
    one_step._cache_size, one_step.clear_cache = step._cache_size, step.clear_cache
    train.train_step = one_step
    shared = Shared()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.runs):
            axes = {"train.steps": 20 + number, "optim.lr": 1e-3 * (1 + number)}
            config = command_line.configured(options.config, FIELDS | axes)
            own, base = Path(folder) / str(number), Path(folder) / "base"
            request = train.Run(config, own, quiet=True, base_records=base, shared=shared)
            wall, cpu = until_first_step(request)
            line = {
                "run": number,
                "seconds": wall,
                "cpu_seconds": cpu,
                "programs": step._cache_size(),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
