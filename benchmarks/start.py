"""What a person waits for: an import, the help of every command, and the first training step.

    python benchmarks/start.py --runs=5
    python benchmarks/start.py --runs=5 --beside=EARLIER/.venv/bin/python    another version in turns

The first step is that of `python -m lfl_jax.main --config=configs/math_ift.py`, from typing the
command to the end of the step: SmolLM2-135M, fetched, without evaluations. Once with nothing
compiled (a first start), then `runs` times with the programs that the first one kept (every later
start). Prints JSON: medians of seconds on the clock and of the processor, and with --beside those
of the other version's environment, and medians of the pairs' ratios.
"""

import argparse
import json
import os
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TypeAlias

# (seconds on the clock, seconds of the processor)
Seconds: TypeAlias = tuple[float, float]

COMMANDS = ("main", "study", "evaluate", "analyze", "compare")
COMMANDS += ("export", "plan", "doctor", "fetch", "inspect_data")
QUICK = {"import lfl_jax": ["-c", "import lfl_jax"]}
QUICK |= {f"{command} --help": ["-m", f"lfl_jax.{command}", "--help"] for command in COMMANDS}
NOTHING = ("eval.tasks", "eval.every_tasks", "eval.base_tasks")
# Whose number decides how many threads a step has.
THREADS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "XLA_FLAGS")


def seconds(python: str, arguments: list[str]) -> Seconds:
    """Of one process, from its start to its end."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    # In a folder without the package: the interpreter's own is measured.
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, *arguments], check=True, capture_output=True, cwd=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begun, cpu


def until_first_step(python: str, compiled: str) -> Seconds:
    """Of a run in a new directory, with this folder of compiled programs."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": compiled}
    command = [python, str(Path(__file__).resolve()), "--until_first_step"]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.time()
        child = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment, cwd=folder
        )
    ended, cpu = json.loads(child.stdout.splitlines()[-1])
    return ended - begun, cpu


def run_until_first_step() -> None:
    """The command; prints when its first step was done, and the processor's seconds until then."""
    import jax

    from lfl_jax import train

    step = train.train_step

    def one_step(*arguments: object, **names: object) -> None:
        jax.block_until_ready(step(*arguments, **names))
        print(json.dumps([time.time(), time.process_time()]), flush=True)
        os._exit(0)

    # What else the loop asks of it.
    one_step._cache_size, one_step.clear_cache = step._cache_size, step.clear_cache
    train.train_step = one_step
    fields = [f"--config.{name}=()" for name in NOTHING]
    sys.argv = ["main", "--config=math_ift", "--workdir=run", "--config.train.steps=2", *fields]
    runpy.run_module("lfl_jax.main", run_name="__main__")


def measured(versions: dict[str, str], runs: int) -> dict[str, dict]:
    """{what: {version: medians, and ratios of the pairs}}; versions: name -> interpreter."""
    waits: dict[str, dict[str, list[Seconds]]] = {}
    with tempfile.TemporaryDirectory() as compiled:
        for number in range(runs + 1):
            # In turns, and each one first as often as the other.
            for name in sorted(versions, reverse=bool(number % 2)):
                python, own = versions[name], f"{compiled}/{name}"
                what = "first step, later start" if number else "first step, first start"
                waits.setdefault(what, {}).setdefault(name, []).append(
                    until_first_step(python, own)
                )
                for what, arguments in QUICK.items():
                    waits.setdefault(what, {}).setdefault(name, []).append(
                        seconds(python, arguments)
                    )
                print(f"{name}: round {number} of {runs}", file=sys.stderr)
    return {what: summary(of_versions) for what, of_versions in waits.items()}


def summary(waits: dict[str, list[Seconds]]) -> dict[str, object]:
    """Medians of each version, and of the ratios ours : beside, pair by pair."""
    found: dict[str, object] = {"runs": len(waits["ours"])}
    for i, unit in enumerate(("wall", "cpu")):
        columns = {name: [pair[i] for pair in pairs] for name, pairs in waits.items()}
        found |= {f"{name}_{unit}_s": statistics.median(x) for name, x in columns.items()}
        if "beside" in columns:
            pairs = zip(columns["ours"], columns["beside"], strict=True)
            found[f"{unit}_ratio"] = statistics.median(ours / other for ours, other in pairs)
    return {name: round(x, 3) for name, x in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--beside", help="interpreter of another version's environment")
    parser.add_argument("--until_first_step", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.until_first_step:
        return run_until_first_step()

    versions = {"ours": sys.executable}
    versions |= {"beside": os.path.abspath(options.beside)} if options.beside else {}
    found = {"benchmark": "start", "cores": os.cpu_count()}
    found["environment"] = {name: os.environ[name] for name in THREADS if name in os.environ}
    print(json.dumps(found | measured(versions, options.runs), indent=1))


if __name__ == "__main__":
    main()
