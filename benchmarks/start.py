"""Seconds from typing the command to the end of the first training step, SmolLM2-135M, model and
data fetched.

    python benchmarks/start.py --runs=3

Runs `python -m lfl_jax.main` without evaluations and reads the time of the first record of
metrics.jsonl: once with nothing compiled (a first start), then `runs` times with the programs that
the first one kept (every later start).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def start(compiled: str) -> float:
    """One run of two steps in a new directory, with this folder of compiled programs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "lfl_jax.main",
            "--config=configs/math_ift.py",
            f"--workdir={folder}/run",
        ]
        command += [
            "--config.train.steps=2",
            "--config.eval.tasks=()",
            "--config.eval.every_tasks=()",
        ]
        begun = time.time()
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": compiled}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        first = json.loads((Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()[0])
        return first["time"] - begun


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    with tempfile.TemporaryDirectory() as compiled:
        first, *later = [start(compiled) for _ in range(1 + parser.parse_args().runs)]
    found = {
        "benchmark": "start",
        "first_s": first,
        "later_s": later,
        "later_median_s": statistics.median(later),
    }
    print(json.dumps(found, indent=1))
