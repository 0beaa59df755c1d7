"""Two programs measured in turns, A B A B, so that a noisy machine slows both alike; ratios are
taken pair by pair.

A benchmark script calls `main` with one function per side. Each side runs in a process of its own
(the other is idle meanwhile) that prepares once, warms up twice, and then does one measurement per
line on its stdin. Both sides run under the same thread settings, which the result names: by default
OMP_WAIT_POLICY=PASSIVE, without which torch's threads spin while they wait, so that on a busy
machine a ratio says nothing.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata

# The widest instructions a side may use, for XLA and for torch's own kernels and oneDNN.
INSTRUCTIONS = {
    "avx2": {
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "avx512": {
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX512",
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}
# What is named in the result beside the numbers.
THREADS = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

Side = Callable[[argparse.Namespace], tuple[Callable[[], float], float]]


def main(script: str, ours: Side, peer: Side, parser: argparse.ArgumentParser) -> None:
    """Run the script as parent or as one side. A side returns (measurement, units of work in it);
    the measurement returns a number both sides should agree on (a loss) or 0. Prints one JSON
    object."""
    parser.add_argument("--runs", type=int, default=8, help="measured pairs")
    parser.add_argument(
        "--peer_python",
        default=sys.executable,
        help="interpreter of the peer, with the extra peers",
    )
    parser.add_argument(
        "--instructions",
        choices=sorted(INSTRUCTIONS),
        help="the widest instructions of both sides (default: what the CPU has)",
    )
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        _serve({"ours": ours, "peer": peer}[arguments.side], arguments)
    else:
        print(json.dumps(_compare(script, arguments), indent=1))


def _serve(side: Side, arguments: argparse.Namespace) -> None:
    measure, units = side(arguments)
    for _ in range(2):
        measure()
    print(json.dumps({"units": units}), flush=True)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        check = measure()
        result = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu,
            "check": check,
        }
        result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(result), flush=True)


def _compare(script: str, arguments: argparse.Namespace) -> dict:
    passed = [
        f"--{k}={v}"
        for k, v in vars(arguments).items()
        if k not in ("side", "peer_python") and v is not None
    ]
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
    environment |= INSTRUCTIONS.get(arguments.instructions, {})
    workers, units = {}, {}
    for side, python in (("ours", sys.executable), ("peer", arguments.peer_python)):
        command = [python, script, f"--side={side}", *passed]
        workers[side] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        units[side] = json.loads(workers[side].stdout.readline())["units"]
    measured = {side: [] for side in workers}
    for run in range(arguments.runs):
        for side in sorted(workers, reverse=bool(run % 2)):
            workers[side].stdin.write("\n")
            workers[side].stdin.flush()
            measured[side].append(json.loads(workers[side].stdout.readline()))
            print(
                f"{side} {run + 1}/{arguments.runs}: {measured[side][-1]['seconds']:.3f} s",
                file=sys.stderr,
            )
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    threads = {name: environment[name] for name in THREADS if name in environment}
    return _report(arguments, units, measured) | {"cores": os.cpu_count(), "threads": threads}


def _report(arguments: argparse.Namespace, units: dict, measured: dict) -> dict:
    median = lambda side, what: statistics.median(m[what] for m in measured[side])  # noqa: E731
    pairs = list(zip(measured["ours"], measured["peer"], strict=True))
    scale = units["ours"] / units["peer"]
    return {
        "benchmark": vars(arguments) | {"peer_python": None, "side": None},
        **{side: {"units_per_s": units[side] / median(side, "seconds"), "median_s": median(side, "seconds"),
                  "cpu_s": median(side, "cpu_seconds"), "peak_mib": measured[side][-1]["peak_mib"],
                  "check": measured[side][0]["check"]} for side in measured},
        "speed_ratio": statistics.median(scale * p["seconds"] / o["seconds"] for o, p in pairs),
        "cpu_ratio": statistics.median(o["cpu_seconds"] / p["cpu_seconds"] / scale for o, p in pairs),
        "peak_memory_ratio": measured["ours"][-1]["peak_mib"] / measured["peer"][-1]["peak_mib"],
        "machine": f"{platform.machine()}, {platform.processor() or 'cpu'}, python"
                   f" {platform.python_version()}",
        "versions": {name: _version(name) for name in ("jax", "torch", "transformers", "peft", "lm_eval")},
    }  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
