"""Seconds from typing the command to the end of the first training step, SmolLM2-135M, everything cached.

    python benchmarks/start.py --runs=3

Runs `python -m lfl_jax.main` without evaluations and reads the time of the first record of metrics.jsonl.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def start() -> float:
    """One run of two steps in a new directory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lfl_jax.main", "--config=configs/math_ift.py", f"--workdir={folder}/run"]
        command += ["--config.train.steps=2", "--config.eval.tasks=()", "--config.eval.every_tasks=()"]
        begun = time.time()
        subprocess.run(command, check=True, capture_output=True)
        first = json.loads((Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()[0])
        return first["time"] - begun


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    seconds = [start() for _ in range(parser.parse_args().runs)]
    print(json.dumps({"benchmark": "start", "seconds": seconds, "median_s": statistics.median(seconds)}, indent=1))
